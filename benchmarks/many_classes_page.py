"""The page of a run with many classes, made up: random photos and answers, through the code that every run uses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.config import RunConfig
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.evaluation.metrics import classification_report
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.models.build import build_model
from convcraft.training.run_folder import CONFIG, RunDescription
from convcraft.workflows.draw_run import Shown, draw_run
from convcraft.workflows.train import machine_facts

SIDE_PIXELS = 160
NUM_RESAMPLES = 100


def draw_many_classes(folder: Path, num_classes: int, images_per_class: int, seed: int = 0) -> tuple[Path, Shown]:
    """Write the page; returns its path and what it shows. Photos are noise of many scales, about as heavy as JPEGs of
    real ones; about 7 of 10 answers are right, mistakes go to any class."""
    random = np.random.default_rng(seed)
    classes = tuple(f"kind {number:04d} of many" for number in range(num_classes))
    targets = np.repeat(np.arange(num_classes), images_per_class)
    logits = random.normal(size=(len(targets), num_classes)).astype(np.float32) * 2
    logits[np.arange(len(targets)), targets] += 7.0
    preprocess = Preprocess(height=SIDE_PIXELS, width=SIDE_PIXELS, channels=3, mean=(0.5,), std=(0.25,))
    pixels = np.stack([_photo(random) for _ in range(64)])
    pixels = np.stack([pixels[row % 64][:, :, random.permutation(3)] for row in range(len(targets))])
    names = [f"val/{classes[target]}/IMG_{row:08d}.jpg" for row, target in enumerate(targets)]
    samples = [Sample(image, int(target), name) for image, target, name in zip(pixels, targets, names, strict=True)]
    images = ImageSet(samples, targets, preprocess, pixels)
    predictions = Predictions(classes, softmax(logits), targets, tuple(names))
    report = classification_report(predictions, num_resamples=NUM_RESAMPLES)
    config = RunConfig().changed(model={"name": "resnet20_cifar"})
    torch.manual_seed(seed)
    size = (SIDE_PIXELS, SIDE_PIXELS)
    model = build_model(config.model, num_classes=num_classes, in_channels=3, image_size=size)
    folder.mkdir(parents=True, exist_ok=True)
    config.save(folder / CONFIG)
    (folder / "metrics.jsonl").write_text("")
    counts = np.bincount(targets, minlength=num_classes).tolist()
    data = {"name": "a thousand kinds", "class_counts": {"test": counts}, "findings": [], "sha256": "0" * 64}
    summary = {
        "epochs": 0,
        "train_seconds": 0.0,
        "checkpoint": "none",
        "weights_file": "none",
        "weights_sha256": "0" * 64,
        **machine_facts("cpu", "float32"),
    }
    shown = Shown("test", images, predictions, report)
    return draw_run(RunDescription(folder, config, classes, preprocess, data), model, summary, shown), shown


def _photo(random: np.random.Generator) -> NDArray[np.uint8]:
    """uint8 [S, S, 3]: noise with an amplitude that falls with its frequency, as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(SIDE_PIXELS)[:, None], np.fft.rfftfreq(SIDE_PIXELS)[None])
    spectrum = np.fft.rfft2(random.normal(size=(3, SIDE_PIXELS, SIDE_PIXELS))) / np.maximum(frequency, 0.01)
    values = np.fft.irfft2(spectrum, s=(SIDE_PIXELS, SIDE_PIXELS))
    values = 128 + 50 * values / values.std()
    return np.clip(values, 0, 255).astype(np.uint8).transpose(1, 2, 0)
