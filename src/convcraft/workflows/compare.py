"""`convcraft compare`: is one run better than another, on the test images that both were judged on?"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from convcraft.data.durable_files import read_json
from convcraft.errors import UserError
from convcraft.evaluation.agreement import Agreement, compare_predictions
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.training.run_folder import EVALUATION, PREDICTIONS, read_run


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two runs on the same images. data: what the images are called. void: why the figures of either say too much."""

    runs: tuple[Path, Path]
    data: str
    agreement: Agreement
    void: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "runs": [str(run) for run in self.runs],
            "data": self.data,
            "void": list(self.void),
            **self.agreement.to_dict(),
        }


def compare(first: Path, second: Path) -> Comparison:
    """Compare two runs by the predictions that `evaluate` saved; the test images stay closed.

    Raises:
        UserError: no run folder, a run that was not evaluated, or runs that were judged on other images.
    """
    sides = [_judged(run) for run in (first, second)]
    (predictions, published), (others, other_published) = sides
    if published["images"] != other_published["images"]:
        received = (
            f"{first} was judged on {published['data']}, {second} on {other_published['data']}, with other images"
        )
        fix = "Judge both on the same images: convcraft evaluate RUN DATA"
        raise UserError(received, "two runs that were judged on the same images", fix)
    labels = (first.name, second.name) if first.name != second.name else (str(first), str(second))
    agreement = compare_predictions(predictions, _in_order(others, predictions.classes), labels)
    void = tuple(
        f"{label}: {reason}"
        for label, (_, figures) in zip(labels, sides, strict=True)
        for reason in figures.get("void", ())
    )
    return Comparison((first, second), published["data"], agreement, void)


def _judged(run: Path) -> tuple[Predictions, dict[str, Any]]:
    """A run's saved predictions and published figures."""
    description = read_run(run)
    if not (run / EVALUATION).exists() or not (run / PREDICTIONS).exists():
        received = f"{run} has no {EVALUATION if not (run / EVALUATION).exists() else PREDICTIONS}"
        fix = f"Evaluate it first: convcraft evaluate {run}"
        raise UserError(received, "a run that `convcraft evaluate` has judged", fix)
    saved = SavedPredictions.load(run / PREDICTIONS)
    return saved.predictions(description.classes, description.config.training.loss), read_json(run / EVALUATION)


def _in_order(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    """The same predictions with their columns in another run's order, where both know the same classes."""
    own = predictions.classes
    if own == classes or sorted(own) != sorted(classes):
        return predictions  # the comparison names what differs
    order = np.array([own.index(name) for name in classes])
    targets = None if predictions.targets is None else np.argsort(order)[predictions.targets]
    return Predictions(classes, predictions.probabilities[:, order], targets, predictions.names)
