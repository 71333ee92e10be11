"""A run goes on with the pixels with which it was begun, whatever a new run would take now."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_run import QUIET, stop_after

from convcraft.config import DataConfig, PreprocessConfig, RunConfig
from convcraft.data import dataset, fast_decode
from convcraft.data.dataset import Recorded, prepare_training_data
from convcraft.data.preprocess import VERSION, Preprocess
from convcraft.errors import UserError
from convcraft.training.loop import Interrupted
from convcraft.workflows.report import redraw
from convcraft.workflows.train import train


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of 15 JPEG photos, 70 x 90."""
    random = np.random.default_rng(0)
    for name in ("ants", "bees"):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for index in range(15):
            coarse = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((90, 70), Image.Resampling.BICUBIC).save(folder / f"{index}.jpg")
    return tmp_path / "photos"


def settings(photos: Path, **data: object) -> RunConfig:
    return RunConfig().changed(
        data={"source": str(photos), **data},
        preprocess={"image_size": (28, 28)},
        model={"name": "lenet5"},
        training={"epochs": 2, "batch_size": 10, "device": "cpu", "checkpoint_seconds": 1000.0},
    )


def begun(run: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> Path:
    with stop_after(monkeypatch, 2), pytest.raises(Interrupted):
        train(config, run, console=QUIET)
    return run


def test_a_run_of_an_older_contract_goes_on_with_it(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as older:
        older.setattr(dataset, "VERSION", 1)
        run = begun(tmp_path / "run", settings(photos), monkeypatch)
        straight = train(settings(photos), tmp_path / "straight", console=QUIET)
    assert Preprocess.load(run / "preprocess.json").version == 1
    resumed = train(RunConfig(), run, resume=True, console=QUIET)
    assert resumed.summary["weights_sha256"] == straight.summary["weights_sha256"]
    assert Preprocess.load(run / "preprocess.json").version == 1
    assert redraw(run, console=QUIET).is_file()
    # The same settings now give a run of the new contract.
    assert prepare_training_data(settings(photos).data, PreprocessConfig()).preprocess.version == VERSION == 2


def test_a_recorded_contract_gives_its_own_pixels(photos: Path) -> None:
    data, wanted = DataConfig(source=str(photos)), PreprocessConfig(image_size=(24, 24))
    for version in (1, 2):
        found = prepare_training_data(data, wanted, recorded=Recorded(version, "contract"))
        expected = Preprocess(height=24, width=24, channels=3, version=version)
        assert found.train.pixels is not None
        for sample, pixels in zip(found.train.samples, found.train.pixels, strict=True):
            np.testing.assert_array_equal(pixels, expected.pixels(sample.image))


def test_a_run_goes_on_with_its_decoder(photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = settings(photos, memory_megabytes=0)
    run = begun(tmp_path / "fast", config, monkeypatch)
    assert json.loads((run / "data.json").read_text())["train_decoder"] == "fast"
    with monkeypatch.context() as without:
        without.setattr(fast_decode, "works_here", lambda: False)
        with pytest.raises(UserError, match="begun with the decoder 'fast'"):
            train(RunConfig(), run, resume=True, console=QUIET)
        slow = begun(tmp_path / "slow", config, monkeypatch)
        straight = train(config, tmp_path / "straight", console=QUIET)
    resumed = train(RunConfig(), slow, resume=True, console=QUIET)  # now the fast one would work
    assert resumed.summary["weights_sha256"] == straight.summary["weights_sha256"]
    assert train(RunConfig(), run, resume=True, console=QUIET).summary["epochs"] == 2


def test_runs_that_name_no_decoder_took_the_contract(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = begun(tmp_path / "run", settings(photos, memory_megabytes=0, train_decoder="contract"), monkeypatch)
    description = json.loads((run / "data.json").read_text())
    del description["train_decoder"]
    (run / "data.json").write_text(json.dumps(description))
    asked: list[str] = []
    monkeypatch.setattr(dataset, "recorded_decoder", lambda name: asked.append(name) or name)
    train(RunConfig(), run, resume=True, console=QUIET)
    assert asked == ["contract"]
