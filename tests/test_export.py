"""From a run to bundles and back to answers, by the commands a person types."""

from __future__ import annotations

import csv
import io
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import digits_run
from PIL import Image
from rich.console import Console

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.deploy.archive import read_files
from convcraft.deploy.bundle import open_bundle
from convcraft.errors import UserError
from convcraft.training.run_folder import read_run
from convcraft.workflows.export import parse_variants
from convcraft.workflows.export_images import export_images

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    assert leaves(["export", str(run), "--quiet"]) == 0
    return run / "bundles" / "digits-onnx-float32.zip"


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    from sklearn.datasets import load_digits

    folder = tmp_path / "digits"
    folder.mkdir()
    for at, image in enumerate(load_digits().images[:20]):
        Image.fromarray((image * 15.9).astype(np.uint8)).save(folder / f"{at:02d}.png")
    return folder


def leaves(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def answered(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert leaves([*arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return found


def test_a_bundle_answers_as_its_run(run: Path, bundle: Path, digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = answered(["predict", str(bundle), str(digits), "--top", "10"], capsys)["predictions"]
    theirs = answered(["predict", str(run), str(digits), "--top", "10"], capsys)["predictions"]
    assert len(ours) == 20
    for one, other in zip(ours, theirs, strict=True):
        for key in ("image", "label", "set", "reject", "reason"):
            assert one[key] == other[key]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-4)


def test_without_torch(bundle: Path, digits: Path) -> None:
    """The command line in a process where everything that the base install lacks cannot be imported."""
    absent = (
        "torch",
        "torchvision",
        "timm",
        "scipy",
        "sklearn",
        "pandas",
        "matplotlib",
        "lightning_fabric",
        "filelock",
    )
    program = f"""
import sys
for name in {absent!r}:
    sys.modules[name] = None
from convcraft.cli.app import main
main(sys.argv[1:])
"""
    for command in (["predict", str(bundle), str(digits)], ["verify", str(bundle)]):
        done = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_verify_finds_a_changed_byte(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert answered(["verify", str(bundle)], capsys)["passed"]
    changed = tmp_path / "changed.zip"
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    assert leaves(["verify", str(changed)]) == 1
    assert leaves(["predict", str(changed), str(bundle)]) == 2


def test_what_a_bundle_holds(run: Path, bundle: Path) -> None:
    found = open_bundle(bundle)
    assert found.classes == tuple("0123456789")
    assert found.trust is not None
    assert found.parity["real"]["num_images"] > 100
    assert found.parity["real"]["relative_difference"] <= 1e-4
    assert "lenet5" in found.manifest.source["network"]
    assert "Licence" not in found.card  # it was trained from random numbers
    assert str(run.parent) not in json.dumps([found.manifest.source, found.card, found.parity])


def test_answers_as_files(bundle: Path, digits: Path, tmp_path: Path) -> None:
    (digits / "broken.png").write_bytes(b"no picture")
    for ending in ("csv", "json", "parquet"):
        assert leaves(["predict", str(bundle), str(digits), "--out", str(tmp_path / f"a.{ending}"), "--quiet"]) == 2
    with (tmp_path / "a.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 21
    assert [row["problem"] != "" for row in rows].count(True) == 1
    saved = json.loads((tmp_path / "a.json").read_text())
    assert [row["label"] for row in rows if row["label"]] == [entry["label"] for entry in saved if "label" in entry]
    import pyarrow.parquet

    assert pyarrow.parquet.read_table(tmp_path / "a.parquet").num_rows == 21
    assert leaves(["predict", str(bundle), str(digits), "--out", str(tmp_path / "a.txt")]) == 2
    assert not (tmp_path / "a.txt").exists()


def test_a_video_is_answered_frame_by_frame(
    bundle: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    av = pytest.importorskip("av", reason="videos need the video extra")
    clip = tmp_path / "clip.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 64, "yuv420p"
        for path in sorted(digits.glob("*.png")):
            pixels = np.array(Image.open(path).convert("RGB").resize((64, 64)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    every = answered(["predict", str(bundle), str(clip)], capsys)["predictions"]
    assert len(every) == 20
    assert every[10]["image"] == f"{clip} 1.00 s"
    half = answered(["predict", str(bundle), str(clip), "--every", "2"], capsys)["predictions"]
    assert [one["image"] for one in half] == [one["image"] for one in every[::2]]
    assert half == every[::2]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    assert leaves(["predict", str(bundle), str(broken)]) == 2


def test_the_page_shows_the_variants(run: Path, bundle: Path) -> None:
    weighed = json.loads((run / "variants.json").read_text())
    assert [entry["name"] for entry in weighed["variants"]] == ["as trained (torch)", "onnx float32"]
    assert all(entry["agreement"] == 1 and entry["milliseconds"] > 0 for entry in weighed["variants"])
    assert leaves(["report", str(run), "--quiet"]) == 0
    assert f"convcraft export {run.name} --format onnx:float32" in (run / "report.html").read_text()


@pytest.mark.parametrize(
    ("formats", "precision", "message"),
    [(["onx"], None, "onnx"), (["onnx:float8"], None, "float32"), (["onnx", "onnx"], None, "twice")],
)
def test_unknown_variants_are_named(formats: list[str], precision: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_variants(formats, precision)


def test_nothing_is_overwritten(run: Path, bundle: Path, tmp_path: Path) -> None:
    before = bundle.read_bytes()
    assert leaves(["export", str(run), "--quiet"]) == 2
    assert bundle.read_bytes() == before
    assert leaves(["export", str(tmp_path), "--quiet"]) == 2
    assert leaves(["predict", str(tmp_path / "absent.zip"), str(bundle)]) == 2


def test_a_place_that_cannot_be_written_is_refused_before_the_work(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convcraft.workflows.export.export_images", lambda *_: pytest.fail("the work has begun"))
    (tmp_path / "file").write_text("in the way")
    assert leaves(["export", str(run), "--out", str(tmp_path / "file" / "below")]) == 2
    assert f"{tmp_path / 'file'} is no folder" in capsys.readouterr().err
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    assert leaves(["export", str(run), "--out", str(tmp_path / "new" / "folder")]) == 2
    assert f"{tmp_path} may not be written to" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_bundle_is_known_by_what_it_is_not_by_its_name(
    bundle: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nameless = shutil.copy(bundle, tmp_path / "network")
    assert answered(["verify", str(nameless)], capsys)["passed"]
    ours, theirs = (answered(["predict", str(each), str(digits)], capsys) for each in (nameless, bundle))
    assert ours["predictions"] == theirs["predictions"]


@pytest.mark.parametrize("option", [["--all"], ["--no-data"], ["--data-dir", "here"], ["--device", "cuda"]])
def test_what_verify_cannot_do_for_a_bundle_is_refused(
    option: list[str], bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leaves(["verify", str(bundle), *option]) == 2
    assert "bundle" in capsys.readouterr().err


def files_of(bundle: Path) -> dict[str, bytes]:
    """Without what names the moment of the export."""
    return {name: content for name, content in read_files(bundle).items() if name != "bundle.json"}


def test_a_bundle_may_be_a_folder(
    run: Path, bundle: Path, digits: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = answered(["export", str(run), "--as-folder", "--out", str(tmp_path), "--quiet"], capsys)
    folder = tmp_path / "digits-onnx-float32"
    assert told["bundles"][0]["bundle"] == str(folder)
    assert folder.is_dir()
    assert files_of(folder) == files_of(bundle)
    assert told["bundles"][0]["bundle_bytes"] == sum(
        file.stat().st_size for file in folder.rglob("*") if file.is_file()
    )
    assert answered(["verify", str(folder)], capsys)["passed"]
    ours, theirs = (answered(["predict", str(each), str(digits)], capsys)["predictions"] for each in (folder, bundle))
    assert ours == theirs
    assert leaves(["export", str(run), "--as-folder", "--out", str(tmp_path), "--quiet"]) == 2  # nothing is overwritten
    (folder / "more.txt").write_text("more")
    assert leaves(["verify", str(folder)]) == 1


def test_probes_may_be_images_of_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = answered(["export", str(run), "--probes", "data", "--out", str(tmp_path), "--quiet"], capsys)
    path = Path(told["bundles"][0]["bundle"])
    made = open_bundle(path)
    judges = export_images(read_run(run)).judges
    assert judges is not None
    probes = {name: content for name, content in read_files(path).items() if name.startswith("probes/image_")}
    assert len(probes) == len(made.manifest.probes) == 16
    for at, content in enumerate(probes[name] for name in sorted(probes)):
        pixels = np.array(Image.open(io.BytesIO(content)))
        assert np.array_equal(made.preprocess.pixels(content), judges.pixels[at])
        assert np.array_equal(pixels.reshape(judges.pixels[at].shape), judges.pixels[at])
    right = [
        probe.label == made.classes[target] for probe, target in zip(made.manifest.probes, judges.targets, strict=False)
    ]
    assert np.mean(right) > 0.5  # they are the run's own pictures, in order
    assert answered(["verify", str(path)], capsys)["passed"]


def test_probes_of_data_need_the_data(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run, copy, ignore=shutil.ignore_patterns("bundles"))
    settings = RunConfig.load(copy / "config.yaml")
    settings.changed(data={"source": str(tmp_path / "gone")}).save(copy / "config.yaml")
    assert leaves(["export", str(copy), "--probes", "data", "--quiet"]) == 2
    assert "--probes data without the data" in capsys.readouterr().err
    assert not (copy / "bundles").exists()
    assert leaves(["export", str(copy), "--probes", "real", "--quiet"]) == 2
    told = answered(["export", str(copy), "--quiet"], capsys)  # drawings need none
    assert told["trade_off"] is None
    assert any("cannot be opened" in note for note in told["notes"])
