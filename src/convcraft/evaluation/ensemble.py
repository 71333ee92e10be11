"""Several models as one: the mean of their probabilities, and what it has over the best of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.paired_gain import PairedGain
from convcraft.evaluation.predictions import Predictions


def mean_predictions(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' probabilities, image by image.

    Raises:
        UserError: fewer than two members, or members that differ in classes, images (by name) or targets.
    """
    if len(members) < 2:
        raise UserError(f"{len(members)} member(s)", "two or more", "An ensemble is of several models.")
    first = members[0]
    for number, member in enumerate(members[1:], start=2):
        _check_same(first, member, number)
    mean = np.stack([member.probabilities for member in members]).mean(axis=0, dtype=np.float64)
    return Predictions(first.classes, mean.astype(np.float32), first.targets, first.names)


def _check_same(first: Predictions, member: Predictions, number: int) -> None:
    fix = "Predict the same images with runs of the same data, in the same order."
    if member.classes != first.classes:
        received = f"member {number} with classes {_some(member.classes)}"
        raise UserError(received, f"those of the first: {_some(first.classes)}", fix)
    if member.names != first.names:
        pairs = enumerate(zip(member.names, first.names, strict=False))
        differing = next((f"image {i} is {own}, not {other}" for i, (own, other) in pairs if own != other), None)
        received = f"member {number} with other images ({differing or f'{len(member)}, not {len(first)}'})"
        raise UserError(received, "the images of the first", fix)
    if (member.targets is None) != (first.targets is None) or not np.array_equal(
        _targets_or_none(member), _targets_or_none(first)
    ):
        raise UserError(f"member {number} with other targets", "the targets of the first", fix)


def _targets_or_none(predictions: Predictions) -> NDArray[np.int64]:
    return np.zeros(0, np.int64) if predictions.targets is None else predictions.targets


def _some(classes: Sequence[str]) -> str:
    return ", ".join(classes[:5]) + (f" ... ({len(classes)})" if len(classes) > 5 else "")


@dataclass(frozen=True)
class EnsembleGain:
    """What the ensemble has over its best member on test images.

    best: the member with the highest validation accuracy; of equals the first. Chosen by test accuracy, it would look
        better than it is, and the ensemble worse.
    validation_accuracy, test_accuracy: of each member.
    gain: before is the best member, after the ensemble, both on test images.
    """

    best: str
    validation_accuracy: dict[str, float]
    test_accuracy: dict[str, float]
    gain: PairedGain

    def to_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "validation_accuracy": dict(self.validation_accuracy),
            "test_accuracy": dict(self.test_accuracy),
            **self.gain.to_dict(),
        }


def ensemble_gain(
    validation: Mapping[str, Predictions], test: Mapping[str, Predictions], groups: ArrayLike | None = None
) -> EnsembleGain:
    """The ensemble of all members against the one that is best on validation images, judged on test images.

    Args:
        validation, test: labelled predictions by the member's name, the same names in both.
        groups: int [N] of the test images, where some belong together.

    Raises:
        UserError: unlike names, images without targets, or members that differ in classes or images.
    """
    if list(validation) != list(test):
        received = f"members {_some(list(validation))} on validation and {_some(list(test))} on test images"
        raise UserError(received, "the same members in the same order", "Predict both splits with every member.")
    together = mean_predictions(list(test.values()))
    mean_predictions(list(validation.values()))  # refuses members that saw different validation images
    if next(iter(validation.values())).classes != together.classes:
        raise UserError("other classes on validation than on test images", "the same", "Use one run's classes.")
    validation_accuracy = {name: float(_is_right(member).mean()) for name, member in validation.items()}
    right = {name: _is_right(member) for name, member in test.items()}
    best = max(validation_accuracy, key=lambda name: validation_accuracy[name])
    return EnsembleGain(
        best=best,
        validation_accuracy=validation_accuracy,
        test_accuracy={name: float(each.mean()) for name, each in right.items()},
        gain=PairedGain.of(right[best], _is_right(together), groups),
    )


def _is_right(predictions: Predictions) -> NDArray[np.bool_]:
    if predictions.targets is None or not len(predictions):
        raise UserError("images without labels, or none", "labelled images", "Judge on a labelled split.")
    return np.asarray(predictions.labels == predictions.targets)
