"""`convcraft evaluate BUNDLE DATA`: the run's own figures on the same labelled images, without the run."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exported import digits_run
from PIL import Image

from convcraft.cli.app import main
from convcraft.config import DataConfig
from convcraft.errors import UserError

pytest.importorskip("onnxscript", reason="exporting needs the export extra")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits in a folder for each class."""
    from sklearn.datasets import load_digits

    digits, folder = load_digits(), tmp_path_factory.mktemp("labelled")
    for at in range(300):
        place = folder / str(digits.target[at])
        place.mkdir(exist_ok=True)
        Image.fromarray((digits.images[at] * 15.9).astype(np.uint8)).save(place / f"{at:03d}.png")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_run(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def bundle(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert leaves(["export", str(run), "--quiet"]) == 0
    alone = tmp_path_factory.mktemp("elsewhere") / "digits.zip"
    shutil.copy(run / "bundles" / "digits-onnx-float32.zip", alone)
    return alone


def leaves(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return int(left.value.code or 0)


def told(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    capsys.readouterr()
    assert leaves([*arguments, "--json", "--quiet"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    return found


def test_it_says_what_the_run_says(run: Path, bundle: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours = told(["evaluate", str(bundle), str(labelled)], capsys)
    theirs = told(["evaluate", str(run), str(labelled)], capsys)
    assert ours["num_images"] == 300
    assert ours["confusion"] == theirs["confusion"]
    assert ours["trust"]["rejected"] == theirs["trust"]["rejected"]
    assert ours["log_loss"] == pytest.approx(theirs["log_loss"], abs=1e-4)
    assert ours["bundle"] == str(bundle)


def test_a_gate_ends_with_1(bundle: Path, labelled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["evaluate", str(bundle), str(labelled), "--class-group", "round=0,6,8,9", "--fail-under"]
    assert told([*arguments, "0.1"], capsys)["gate"]["passed"]
    failed = told([*arguments, "1.0"], capsys, code=1)
    assert not failed["gate"]["passed"]
    assert any("round" in each["name"] for each in failed["slices"]["slices"])


@pytest.mark.parametrize("option", [["--robustness"], ["--tta"], ["--with", "RUN"]])
def test_what_needs_the_run_is_refused(
    option: list[str], run: Path, bundle: Path, labelled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    option = [str(run) if word == "RUN" else word for word in option]
    assert leaves(["evaluate", str(bundle), str(labelled), *option]) == 2
    assert f"a bundle with {option[0]}" in capsys.readouterr().err


def test_without_data(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert leaves(["evaluate", str(bundle)]) == 2
    assert "without labelled images" in capsys.readouterr().err


def test_a_named_set_is_looked_for_in_the_data_folder(
    bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def opened(config: DataConfig, *_: object) -> None:
        raise UserError(f"{config.source} in {config.data_dir}", "nothing", "nothing")

    monkeypatch.setattr("convcraft.workflows.evaluate_bundle.open_other_data", opened)
    assert leaves(["evaluate", str(bundle), "mnist", "--data-dir", "here"]) == 2
    assert "mnist in here" in capsys.readouterr().err
    assert leaves(["evaluate", str(bundle), "--data-dir", "here"]) == 2
    assert "without labelled images" in capsys.readouterr().err


@pytest.mark.parametrize(("megabytes", "reading"), [(512, "once they are read"), (0, "reading them included")])
def test_it_says_whether_its_speed_counts_reading(
    megabytes: int,
    reading: str,
    bundle: Path,
    labelled: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limited = partial(DataConfig, memory_megabytes=megabytes)
    monkeypatch.setattr("convcraft.workflows.evaluate_bundle.DataConfig", limited)
    assert leaves(["evaluate", str(bundle), str(labelled), "--quiet"]) == 0
    assert f"images per second, {reading}" in capsys.readouterr().out


def test_classes_that_it_does_not_know(bundle: Path, labelled: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(labelled / "3", other / "cat")
    shutil.copytree(labelled / "4", other / "4")
    assert leaves(["evaluate", str(bundle), str(other)]) == 2
