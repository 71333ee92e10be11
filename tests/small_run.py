"""A run that takes a second: bars on 8x8 pixels, and a trainer for them. (No tests; other test files use it.)"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from convcraft.config import RunConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.models.build import build_model
from convcraft.tasks.classification import Classification
from convcraft.training import loop
from convcraft.training.freeze import freeze
from convcraft.training.loop import Trainer, prepare_trainer
from convcraft.training.random_state import seed_all

QUIET = Console(quiet=True)
CONTRACT = Preprocess(
    height=8,
    width=8,
    channels=1,
    resize="stretch",
    interpolation="bilinear",
    crop_fraction=1.0,
    mean=(0.4,),
    std=(0.3,),
)


def bars(num: int, seed: int = 0) -> ImageSet:
    """Class 0 vertical, 1 horizontal, 2 both; noisy enough that a network must learn."""
    draw = np.random.default_rng(seed)
    samples = []
    for index in range(num):
        target = index % 3
        pixels = draw.integers(0, 60, (8, 8))
        if target != 1:
            pixels[:, draw.integers(8)] += 190
        if target != 0:
            pixels[draw.integers(8)] += 190
        samples.append(Sample(pixels.clip(0, 255).astype(np.uint8), target, f"bars#{index}"))
    return ImageSet.build(samples, CONTRACT, 1 << 30)


TRAIN, VAL = bars(150), bars(60, seed=1)

BASE = RunConfig().changed(
    model={"name": "lenet5", "dropout": 0.2},
    augment={"shift_fraction": 0.1},
    training={"epochs": 2, "batch_size": 16, "log_every_steps": 3, "checkpoint_seconds": 1000.0, "device": "cpu"},
)


def trainer_for(
    run: Path,
    config: RunConfig,
    *,
    resume: bool = False,
    train: ImageSet = TRAIN,
    profile: bool = False,
) -> Trainer:
    """A fresh trainer, or one that goes on, as `convcraft train` would make it."""
    run.mkdir(exist_ok=True, parents=True)
    seed_all(config.training.seed)
    model = build_model(config.model, num_classes=3, in_channels=1, image_size=(8, 8))
    freeze(model, config.model.freeze)
    task = Classification(3, config.training.label_smoothing)
    facts = {"classes": ("v", "h", "b")}
    return prepare_trainer(run, config, train, VAL, task, model, facts, resume=resume, console=QUIET, profile=profile)


@contextmanager
def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """As if a signal came during the given step."""

    class Countdown:
        left = steps

        def __bool__(self) -> bool:
            self.left -= 1
            return self.left <= 0

    @contextmanager
    def fake() -> Iterator[Countdown]:
        yield Countdown()

    with monkeypatch.context() as patch:
        patch.setattr(loop, "catch_stop_signals", fake)
        yield


def files_of(run: Path) -> tuple[bytes, bytes]:
    """The log, and the weights of the last checkpoint."""
    newest = max((run / "checkpoints").glob("step-*"))
    return (run / "metrics.jsonl").read_bytes(), (newest / "model.safetensors").read_bytes()
