"""A run finds its data from any working folder, and says when it is judged on images that it learned from."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.workflows.evaluate import evaluate
from convcraft.workflows.train import train


def make_data(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("dark", "light"):
        (root / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 100, (16, 16, 3)) + (0 if name == "dark" else 150)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number}.png")
    return root


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished run, started with a relative path beside its data."""
    make_data(tmp_path / "here" / "shades")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train(settings("shades"), Path("run"), console=Console(quiet=True))
    return tmp_path / "here" / "run"


def settings(source: str) -> RunConfig:
    return RunConfig().changed(
        data={"source": source, "val_fraction": 0.3},
        preprocess={"image_size": (28, 28)},
        training={"epochs": 1, "batch_size": 8, "device": "cpu"},
    )


def test_from_another_folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert RunConfig.load(run / "config.yaml").data.source == str(tmp_path / "here" / "shades")
    monkeypatch.chdir(tmp_path)
    quiet = Console(quiet=True)
    result = evaluate(run, console=quiet)
    assert result.data == "shades"
    again = train(RunConfig(), run, resume=True, console=quiet)
    assert again.summary["epochs"] == 1
    train(settings("here/shades"), run, resume=True, console=quiet)  # the same data, said from here
    monkeypatch.chdir(tmp_path / "here")
    train(settings("shades"), run, resume=True, console=quiet)


def test_images_of_the_training_are_noticed_in_other_data(run: Path, tmp_path: Path) -> None:
    seen = np.load(run / "seen_images.npy")
    assert (seen.dtype, len(seen)) == (
        np.uint64,
        sum(read(run / "data.json")["num_images"][p] for p in ("train", "val")),
    )
    other = tmp_path / "other"
    shutil.copytree(tmp_path / "here" / "shades", other)
    for number in range(12):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(other / "dark" / f"{number}.png")
    said = io.StringIO()
    evaluate(run, str(other), console=Console(file=said, width=400))
    (finding,) = read(run / "evaluation.json")["findings"]
    num_test_light = read(run / "data.json")["class_counts"]["test"][1]
    assert f"{12 - num_test_light} of 24 images are, pixel for pixel," in finding["message"]
    assert f"warning: {finding['message']}" in said.getvalue()
    (run / "seen_images.npy").unlink()  # a run of an older version
    evaluate(run, str(other), console=Console(quiet=True))
    assert read(run / "evaluation.json")["findings"] == []


def read(path: Path) -> dict:  # type: ignore[type-arg]
    return json.loads(path.read_text(encoding="utf-8"))
