"""Groups that somebody declares reach the gate of `export` and `compress` from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from convcraft.cli.app import main
from convcraft.config import RunConfig
from convcraft.data.dataset import prepare_training_data
from convcraft.deploy.bundle import open_bundle
from convcraft.deploy.compress.timing import milliseconds_per_image
from convcraft.errors import UserError
from convcraft.workflows.compress_settings import choose_compression
from convcraft.workflows.declared_groups import declared_groups
from convcraft.workflows.evaluate_options import Asked
from convcraft.workflows.train import train

QUIET = Console(quiet=True)
CLASSES = ("dark", "grey", "light")
PARTS = {"train": 60, "val": 90, "test": 6}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table with cameras, of which A made two of three pictures, and the hour of the picture."""
    root = tmp_path_factory.mktemp("groups")
    rng = np.random.default_rng(0)
    rows = []
    for part, number in PARTS.items():
        for index in range(number):
            pixels = rng.integers(0, 60, (20, 20, 3)) + 90 * (index % 3)
            Image.fromarray(pixels.astype(np.uint8)).save(root / f"{part}{index}.png")
            camera = "B" if index // 3 % 3 == 0 else "A"
            rows.append((f"{part}{index}.png", CLASSES[index % 3], part, camera, index / 10))
    with (root / "data.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("image", "label", "split", "camera", "hour"), *rows])
    config = RunConfig().changed(
        data={"source": str(root / "data.csv")},
        preprocess={"image_size": (16, 16)},
        model={"name": "lenet5"},
        training={"epochs": 2, "batch_size": 8, "device": "cpu", "trackers": ()},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        return train(config, root / "run", console=QUIET).run


@pytest.fixture(autouse=True)
def _quick_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long the networks take is no question here."""

    def few(*arguments: Any, **_: object) -> dict[str, dict[int, float]]:
        return milliseconds_per_image(*arguments, rounds=1)

    monkeypatch.setattr("convcraft.workflows.compress_result.milliseconds_per_image", few)


def command(capsys: pytest.CaptureFixture[str], *words: str | Path) -> tuple[int, list[str], str]:
    """Exit code, lines of standard output, standard error."""
    with pytest.raises(SystemExit) as end:
        main([*map(str, words), "--quiet"])
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out.splitlines(), said.err


def group_names(gate: dict[str, Any]) -> list[str]:
    return [part["name"] for part in gate["parts"] if part["name"].startswith("group ")]


def test_groups_are_parted_as_evaluate_parts_them(run: Path) -> None:
    config = RunConfig.load(run / "config.yaml")
    val = prepare_training_data(config.data, config.preprocess).val
    assert val is not None
    asked = Asked(slice_columns=("camera", "hour"), class_groups={"bright": ("grey", "light")})
    groups = declared_groups(asked, val, config.data.source, CLASSES)
    assert list(groups)[:2] == ["camera = A", "camera = B"]
    assert sum(name.startswith("hour = ") for name in groups) == 2  # bins of fewer than twenty images are joined
    np.testing.assert_array_equal(groups["bright"], val.targets != 0)
    np.testing.assert_array_equal(groups["camera = B"], np.arange(90) // 3 % 3 == 0)
    assert declared_groups(Asked(), val, config.data.source, CLASSES) == {}
    only = val.subset(np.flatnonzero(val.targets == 0))
    absent = declared_groups(Asked(class_groups={"bright": ("light",)}), only, config.data.source, CLASSES)
    assert not absent["bright"].any()


def test_export_judges_declared_groups(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    groups = ("--slice-column", "camera", "--class-group", "bright=grey,light")
    code, lines, _ = command(
        capsys, "export", run, "--format", "openvino:bfloat16", "--out", tmp_path, *groups, "--json"
    )
    assert code == 0
    expected = ["group camera = A", "group camera = B", "group bright"]
    assert group_names(json.loads(lines[-1])["bundles"][0]["gate"]) == expected
    saved = open_bundle(tmp_path / "run-openvino-bfloat16.zip").parity["gate"]
    assert group_names(saved) == expected
    counts = {part["name"]: part["num_images"] for part in saved["parts"]}
    assert (counts["group camera = B"], counts["group bright"]) == (30, 60)
    for name in expected:
        assert sum(line.startswith(f"gate         {name}: ") for line in lines) == 1


def test_compress_judges_declared_groups(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "sparse"
    groups = ("--slice-column", "camera", "--class-group", "bright=grey,light")
    words = ("compress", run, "--sparsity", "0.3", "--epochs", "0", "--out", out)
    _, lines, _ = command(capsys, *words, *groups)
    expected = ["group camera = A", "group camera = B", "group bright"]
    assert group_names(json.loads((out / "compression.json").read_text())["gate"]) == expected
    assert any(line.startswith("gate         group camera = B: ") for line in lines)
    again = RunConfig.load(out / "config.yaml").compress  # what is judged belongs to the run: --resume and --config
    assert again.slice_columns == ("camera",)
    assert again.class_groups == {"bright": ["grey", "light"]}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--class-group", "bright=white"), "white"),
        (("--class-group", "bright"), "NAME=CLASS"),
        (("--slice-column", "kamera"), "camera"),
        (("--slice-column", "camera", "--slice-column", "camera"), "each column once"),
    ],
)
def test_names_that_do_not_fit_are_refused_before_anything_is_made(
    run: Path, tmp_path: Path, options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (("export", run), ("compress", run, "--sparsity", "0.5", "--epochs", "0")):
        code, _, error = command(capsys, *words, "--out", tmp_path / "out", *options)
        assert code == 2
        assert says in error
    assert not list((tmp_path / "out").glob("**/*.safetensors"))


def test_groups_without_the_data_are_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run.parent / "data.csv").rename(run.parent / "elsewhere.csv")
    try:
        code, _, error = command(capsys, "export", run, "--out", tmp_path, "--class-group", "bright=light")
    finally:
        (run.parent / "elsewhere.csv").rename(run.parent / "data.csv")
    assert code == 2
    assert "declared groups without the data" in error


def test_groups_are_lists_of_names(run: Path) -> None:
    with pytest.raises(UserError, match=r"compress\.class_groups"):
        choose_compression(run, sparsity=0.5, compress_settings={"class_groups": {"bright": [1, 2]}})
