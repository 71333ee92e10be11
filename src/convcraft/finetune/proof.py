"""Before and after: two classifiers on the same images, none of which either has learned from or been chosen by.

The figures are paired: what counts are the images on which just one of the two is right.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.changes import (
    SIGNIFICANCE,
    ClassChange,
    ImageChange,
    class_changes,
    count_images,
    image_changes,
    p_words,
)
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.proper_scores import cross_entropies
from convcraft.statistics import (
    bootstrap_interval,
    effective_size,
    mcnemar_exact,
    paired_difference_interval,
    smallest_detectable_difference,
    wilson_interval,
)

__all__ = ["HOW", "ClassChange", "ImageChange", "Proof", "Side", "Spent", "p_words", "prove"]
HOW = {
    "part": "on images that were kept back: neither fitting nor choosing has used them",
    "cross-fitted": "cross-fitted: each image is judged by networks fitted and chosen without it",
    "test": "on the test images",
}
Interval = tuple[float, float]


@dataclass(frozen=True)
class Spent:
    """What either side cost to make. Parameters are those that were trained, classifier included."""

    before_seconds: float
    after_seconds: float
    before_trainable_parameters: int
    after_trainable_parameters: int


@dataclass(frozen=True)
class Side:
    """One classifier on all images. Accuracy's interval is Wilson's; log-loss in nats."""

    label: str
    num_correct: int
    accuracy: float
    interval: Interval
    log_loss: float
    seconds: float
    trainable_parameters: int


@dataclass(frozen=True)
class Proof:
    """A paired comparison; intervals are of 95 %.

    how: a key of HOW. num_groups: near copies count as one; the intervals and the p-value allow for that.
    difference: accuracy after minus before. p_value: exact McNemar test, by groups.
    smallest_detectable: a true difference that such a test finds four times of five on so many images.
    gained, lost: sorted by how far the probability of the true class moved, farthest first.
    """

    how: str
    num_images: int
    num_groups: int
    before: Side
    after: Side
    difference: float
    difference_interval: Interval
    p_value: float
    smallest_detectable: float
    log_loss_difference: float
    log_loss_interval: Interval
    per_class: tuple[ClassChange, ...]
    gained: tuple[ImageChange, ...]
    lost: tuple[ImageChange, ...]

    @property
    def outcome(self) -> str:
        """ "better", "worse", or "not shown": what the accuracies prove of after."""
        if self.p_value >= SIGNIFICANCE:
            return "not shown"
        return "better" if self.difference > 0 else "worse"

    @property
    def verdict(self) -> str:
        """The outcome in plain words, with the figures that carry it."""
        moved = f"{count_images(len(self.gained))} gained, {len(self.lost)} lost; {p_words(self.p_value)}"
        if self.outcome != "not shown":
            return f"After is {self.outcome} than before: {moved}. {self._probabilities_verdict()}".rstrip()
        return (
            f"No difference in accuracy can be shown with {count_images(self.num_images)}: {moved}. A true difference "
            f"of less than about {100 * self.smallest_detectable:.1f} points would probably not be seen here. "
            f"{self._probabilities_verdict()}"
        ).rstrip()

    def _probabilities_verdict(self) -> str:
        low, high = self.log_loss_interval
        if low <= 0 <= high:
            return ""
        how = "better" if high < 0 else "worse"
        losses = f"log-loss {self.before.log_loss:.3f} before, {self.after.log_loss:.3f} after"
        return f"The probabilities of after are {how}: {losses}."

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the verdict as text."""
        return {"verdict": self.verdict, "outcome": self.outcome, **dataclasses.asdict(self)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Proof:
        """Read what `to_dict` gave; the verdict is drawn anew from the figures.

        Raises:
            UserError: values that are no comparison.
        """
        try:
            plain = {field.name: values[field.name] for field in dataclasses.fields(cls)}
            for side in ("before", "after"):
                plain[side] = Side(**{**plain[side], "interval": tuple(plain[side]["interval"])})
            for name in ("difference_interval", "log_loss_interval"):
                plain[name] = tuple(plain[name])
            plain["per_class"] = tuple(_read_class_change(entry) for entry in plain["per_class"])
            for name in ("gained", "lost"):
                plain[name] = tuple(ImageChange(**entry) for entry in plain[name])
            return cls(**plain)
        except (KeyError, TypeError) as error:
            fix = "Fine-tune again, or restore the file."
            raise UserError(f"no comparison of before and after: {error!r}", "a saved one", fix) from error


def prove(
    classes: Sequence[str],
    names: Sequence[str],
    targets: NDArray[np.int64],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    *,
    how: str,
    spent: Spent,
    groups: ArrayLike | None = None,
    before_label: str = "pretrained network with a probe",
    after_label: str = "fine-tuned network",
    num_resamples: int = 2000,
) -> Proof:
    """Compare two classifiers on the same images.

    Args:
        classes, names: K and N names.
        targets: int64 [N], 0..K-1.
        before, after: float32 [N, K], probabilities; images in the order of `names`.
        how: "part", "cross-fitted" or "test".
        groups: int64 [N], equal for near copies; None where every image stands for itself.
        num_resamples: of the bootstrap behind the interval of the log-losses' difference.

    Raises:
        UserError: no images, shapes that disagree, rows that are no probabilities, or another `how`.
    """
    if how not in HOW:
        raise UserError(f"how is {how!r}", "one of " + ", ".join(HOW), "Say how the images were kept apart.")
    if not len(names):
        raise UserError("no images to compare on", "at least one", "Keep some labelled images back.")
    sides = [Predictions(tuple(classes), rows, targets, tuple(names)) for rows in (before, after)]
    were_right, are_right = (side.labels == targets for side in sides)
    losses = [cross_entropies(side.probabilities, targets) for side in sides]
    test = mcnemar_exact(were_right, are_right, groups)
    changes = losses[1] - losses[0]
    num_independent = len(names) if groups is None else effective_size(groups)
    costs = (
        (spent.before_seconds, spent.before_trainable_parameters),
        (spent.after_seconds, spent.after_trainable_parameters),
    )
    return Proof(
        how=how,
        num_images=len(names),
        num_groups=len(names) if groups is None else len(np.unique(np.asarray(groups))),
        before=_side(before_label, were_right, losses[0], num_independent, *costs[0]),
        after=_side(after_label, are_right, losses[1], num_independent, *costs[1]),
        difference=test.difference,
        difference_interval=paired_difference_interval(were_right, are_right, groups),
        p_value=test.p_value,
        smallest_detectable=smallest_detectable_difference(num_independent, float(np.mean(were_right != are_right))),
        log_loss_difference=float(changes.mean()),
        log_loss_interval=bootstrap_interval(
            lambda rows: float(changes[rows].mean()), len(changes), num_resamples=num_resamples, groups=groups
        ),
        per_class=class_changes(classes, targets, were_right, are_right, groups),
        gained=image_changes(sides[0], sides[1], np.flatnonzero(are_right & ~were_right)),
        lost=image_changes(sides[0], sides[1], np.flatnonzero(were_right & ~are_right)),
    )


def _side(
    label: str,
    correct: NDArray[np.bool_],
    losses: NDArray[np.float64],
    num_independent: float,
    seconds: float,
    trainable_parameters: int,
) -> Side:
    accuracy = float(correct.mean())
    interval = wilson_interval(accuracy * num_independent, num_independent)
    return Side(label, int(correct.sum()), accuracy, interval, float(losses.mean()), seconds, trainable_parameters)


def _read_class_change(values: dict[str, Any]) -> ClassChange:
    interval = values["interval"]
    return ClassChange(**{**values, "interval": None if interval is None else tuple(interval)})
