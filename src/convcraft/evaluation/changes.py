"""What changed between two sets of predictions of the same images: per class and image by image."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.evaluation.predictions import Predictions
from convcraft.statistics import holm, mcnemar_exact, paired_difference_interval

SIGNIFICANCE = 0.05
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassChange:
    """One class: images of it that are right before and after, gained and lost between.

    interval: of the difference of the recalls; p_value: McNemar's, raised for the number of classes (Holm). Both are
    None without images.
    """

    name: str
    num_images: int
    correct_before: int
    correct_after: int
    gained: int
    lost: int
    interval: Interval | None
    p_value: float | None

    @property
    def difference(self) -> float:
        """Recall after minus recall before; 0 without images."""
        return (self.correct_after - self.correct_before) / max(self.num_images, 1)


@dataclass(frozen=True)
class ImageChange:
    """One image that just one side calls right.

    index: its row in the comparison. target, before, after: the true class and what either side called it.
    The probabilities are those of the class that was called, then those of the true class.
    """

    index: int
    name: str
    target: str
    before: str
    after: str
    before_probability: float
    after_probability: float
    before_target_probability: float
    after_target_probability: float


def class_changes(
    classes: Sequence[str],
    targets: NDArray[np.int64],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    groups: ArrayLike | None = None,
) -> tuple[ClassChange, ...]:
    """What changed in each class, the p-values raised for the number of classes.

    Args:
        classes: K names. targets: int64 [N]. before, after: bool [N], right on image n.
        groups: int64 [N], equal for near copies; None where every image stands for itself.
    """
    changes = []
    for index, name in enumerate(classes):
        rows = np.flatnonzero(targets == index)
        own_groups = None if groups is None else np.asarray(groups)[rows]
        changes.append(_class_change(name, before[rows], after[rows], own_groups))
    raised = iter(holm([change.p_value for change in changes if change.p_value is not None]))
    return tuple(
        change if change.p_value is None else dataclasses.replace(change, p_value=next(raised)) for change in changes
    )


def _class_change(
    name: str, before: NDArray[np.bool_], after: NDArray[np.bool_], groups: ArrayLike | None
) -> ClassChange:
    """Of the images of one class; the p-value is that of this class alone."""
    test = mcnemar_exact(before, after, groups)
    return ClassChange(
        name=name,
        num_images=len(before),
        correct_before=int(before.sum()),
        correct_after=int(after.sum()),
        gained=test.only_second,
        lost=test.only_first,
        interval=paired_difference_interval(before, after, groups) if len(before) else None,
        p_value=test.p_value if len(before) else None,
    )


def image_changes(before: Predictions, after: Predictions, rows: NDArray[np.int64]) -> tuple[ImageChange, ...]:
    """These images, sorted by how far the probability of the true class moved, farthest first."""
    assert before.targets is not None
    of_target = [side.probabilities[rows, before.targets[rows]].astype(np.float64) for side in (before, after)]
    farthest_first = rows[np.argsort(-np.abs(of_target[1] - of_target[0]), kind="stable")]
    return tuple(
        ImageChange(
            index=int(row),
            name=before.names[row],
            target=before.classes[before.targets[row]],
            before=before.classes[before.labels[row]],
            after=before.classes[after.labels[row]],
            before_probability=float(before.confidence[row]),
            after_probability=float(after.confidence[row]),
            before_target_probability=float(before.probabilities[row, before.targets[row]]),
            after_target_probability=float(after.probabilities[row, before.targets[row]]),
        )
        for row in farthest_first
    )


def count_images(number: int) -> str:
    """ "1 image", "2,000 images"."""
    return "1 image" if number == 1 else f"{number:,} images"


def p_words(value: float) -> str:
    """ "p = 0.039", "p < 0.0001"."""
    return "p < 0.0001" if value < 0.0001 else f"p = {value:.2g}"
