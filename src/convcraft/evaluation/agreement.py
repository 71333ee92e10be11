"""Two sets of predictions of the same images: which is better, how often they agree, and where they part."""

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
from convcraft.evaluation.proper_scores import labelled_targets
from convcraft.statistics import (
    effective_size,
    mcnemar_exact,
    paired_difference_interval,
    smallest_detectable_difference,
    wilson_interval,
)

Interval = tuple[float, float]
SHOWN_NAMES = 3


@dataclass(frozen=True)
class Agreement:
    """A paired comparison; intervals are of 95 %.

    labels: what the two are called. num_groups: near copies count as one; the intervals and p-values allow for that.
    accuracies, intervals: of the first and the second (Wilson). difference: second minus first, with the interval of
    Bonett and Price. p_value: exact McNemar test. smallest_detectable: a true difference that such a test finds four
    times of five. agreement: share of images that both call alike, right or wrong (Wilson). kappa: Cohen's, agreement
    beyond chance, -1..1; None where both call everything one and the same class.
    both_right, both_wrong, same_mistake: numbers of images; the last is that of the both_wrong called alike.
    per_class: "before" is the first, "after" the second; p-values raised by Holm.
    only_first, only_second: images that just one of them gets right, the probability of the true class farthest apart
    first.
    """

    labels: tuple[str, str]
    num_images: int
    num_groups: int
    accuracies: tuple[float, float]
    intervals: tuple[Interval, Interval]
    difference: float
    difference_interval: Interval
    p_value: float
    smallest_detectable: float
    agreement: float
    agreement_interval: Interval
    kappa: float | None
    both_right: int
    both_wrong: int
    same_mistake: int
    per_class: tuple[ClassChange, ...]
    only_first: tuple[ImageChange, ...]
    only_second: tuple[ImageChange, ...]

    @property
    def better(self) -> str | None:
        """The label of the one that is shown to be better; None where neither is."""
        if self.p_value >= SIGNIFICANCE:
            return None
        return self.labels[1] if self.difference > 0 else self.labels[0]

    @property
    def verdict(self) -> str:
        """The outcome in plain words, with the figures that carry it."""
        first, second = self.labels
        alone = (
            f"{count_images(len(self.only_second))} only {second} gets right, {len(self.only_first):,} only {first}; "
            f"{p_words(self.p_value)}"
        )
        alike = f"They call {100 * self.agreement:.1f} % of {count_images(self.num_images)} alike."
        if self.better is None:
            return (
                f"Neither is shown to be better: {alone}. A true difference of less than about "
                f"{100 * self.smallest_detectable:.1f} points would probably not be seen here. {alike}"
            )
        low, high = (
            self.difference_interval if self.difference > 0 else (-bound for bound in self.difference_interval[::-1])
        )
        margin = f"{100 * abs(self.difference):.1f} points of accuracy (95 %: {100 * low:.1f} to {100 * high:.1f})"
        worse = first if self.better == second else second
        return f"{self.better} is better than {worse} by {margin}: {alone}. {alike}"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, with the verdict as text."""
        return {"verdict": self.verdict, "better": self.better, **dataclasses.asdict(self)}


def compare_predictions(
    first: Predictions,
    second: Predictions,
    labels: tuple[str, str] = ("the first", "the second"),
    groups: ArrayLike | None = None,
) -> Agreement:
    """Compare two sets of predictions of the same labelled images.

    Args:
        first, second: the same classes, images and targets in the same order.
        labels: what they are called in the verdict.
        groups: int64 [N], equal for near copies; None where every image stands for itself.

    Raises:
        UserError: no images, no targets, or classes, names or targets that differ; the message names them.
    """
    targets = labelled_targets(first)
    _check_same("classes", first.classes, second.classes, "Order the columns alike, by name.")
    _check_same("image names", first.names, second.names, "Judge both on the same images, in the same order.")
    other = labelled_targets(second)
    if (differing := np.flatnonzero(targets != other)).size:
        pairs = [
            f"{first.names[row]}: {first.classes[targets[row]]} or {first.classes[other[row]]}" for row in differing
        ]
        received = f"{len(differing)} images with two true classes ({_some(pairs)})"
        raise UserError(received, "the same targets on both sides", "Use one set of labels for both.")
    called, recalled = first.labels, second.labels
    right, now_right = called == targets, recalled == targets
    num_images = len(targets)
    num_independent = num_images if groups is None else effective_size(groups)
    test = mcnemar_exact(right, now_right, groups)

    def share_interval(hits: NDArray[np.bool_]) -> Interval:
        return wilson_interval(float(hits.mean()) * num_independent, num_independent)

    both_wrong = ~right & ~now_right
    return Agreement(
        labels=labels,
        num_images=num_images,
        num_groups=num_images if groups is None else len(np.unique(np.asarray(groups))),
        accuracies=(float(right.mean()), float(now_right.mean())),
        intervals=(share_interval(right), share_interval(now_right)),
        difference=test.difference,
        difference_interval=paired_difference_interval(right, now_right, groups),
        p_value=test.p_value,
        smallest_detectable=smallest_detectable_difference(num_independent, float(np.mean(right != now_right))),
        agreement=float((called == recalled).mean()),
        agreement_interval=share_interval(called == recalled),
        kappa=cohen_kappa(called, recalled, len(first.classes)),
        both_right=int((right & now_right).sum()),
        both_wrong=int(both_wrong.sum()),
        same_mistake=int((both_wrong & (called == recalled)).sum()),
        per_class=class_changes(first.classes, targets, right, now_right, groups),
        only_first=image_changes(first, second, np.flatnonzero(right & ~now_right)),
        only_second=image_changes(first, second, np.flatnonzero(now_right & ~right)),
    )


def cohen_kappa(first: NDArray[np.int64], second: NDArray[np.int64], num_classes: int) -> float | None:
    """Agreement of two labellings beyond what their class frequencies give by chance: 1 always, 0 as by chance.

    Args:
        first, second: int64 [N], 0..num_classes-1.

    Returns:
        -1..1; None where chance alone gives perfect agreement (both know one class only).

    Source: Cohen, "A coefficient of agreement for nominal scales", 1960.
    """
    shares = [np.bincount(labels, minlength=num_classes) / len(labels) for labels in (first, second)]
    by_chance = float(shares[0] @ shares[1])
    if by_chance >= 1.0:
        return None
    return (float((first == second).mean()) - by_chance) / (1 - by_chance)


def _check_same(what: str, first: Sequence[str], second: Sequence[str], fix: str) -> None:
    if tuple(first) == tuple(second):
        return
    only_first, only_second = (sorted(set(one) - set(two)) for one, two in ((first, second), (second, first)))
    if only_first or only_second:
        sides = (("the first", only_first), ("the second", only_second))
        received = "; ".join(f"{len(names)} {what} only in {side} ({_some(names)})" for side, names in sides if names)
    elif len(first) != len(second):
        received = f"{len(first)} and {len(second)} {what}, some of them repeated"
    else:
        place = next(row for row, (one, two) in enumerate(zip(first, second, strict=True)) if one != two)
        received = f"{what} in another order: at {place} {first[place]} and {second[place]}"
    raise UserError(received, f"the same {what} on both sides", fix)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
