"""Results by slices: is the model worse on some kinds of images than on the rest, and is that more than chance?

Every slice is compared with all other images. The p-values are raised for the number of slices (Holm), so that some
slice of a model that treats all alike falls below 0.05 in at most 5 % of the cases. Images count as independent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.proper_scores import labelled_targets
from convcraft.evaluation.slice_columns import MIN_IMAGES, SliceColumn, class_group_column, slice_column
from convcraft.evaluation.two_proportions import fisher_mid_p, newcombe_interval
from convcraft.statistics import holm, wilson_interval

SIGNIFICANCE = 0.05
Interval = tuple[float, float]
Conditions = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SliceResult:
    """The images that meet all conditions (column, value), against the rest.

    interval: of the accuracy (Wilson). difference: accuracy here minus accuracy of the rest, with Newcombe's interval;
    None where there is no rest. p_value: Fisher's mid-p, raised for the number of slices; None where the slice or the
    rest has too few images to be judged.
    """

    conditions: Conditions
    num_images: int
    num_correct: int
    accuracy: float
    interval: Interval
    rest_images: int
    rest_correct: int
    difference: float | None
    difference_interval: Interval | None
    p_value: float | None

    @property
    def name(self) -> str:
        """ "light = dark and camera = B"."""
        return " and ".join(f"{column} = {value}" for column, value in self.conditions)

    @property
    def is_judged(self) -> bool:
        """Whether slice and rest have enough images for a test."""
        return self.p_value is not None

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **dataclasses.asdict(self)}


@dataclass(frozen=True)
class WorstSlice:
    """The slice whose accuracy falls short of the rest's by the most, judged by the lower bound of the shortfall.

    Ranking by the lower bound keeps a handful of unlucky images from winning. Bound and p-value allow for all
    `num_searched` slices that were looked at (Bonferroni).

    result: its p_value and intervals are those of the search, wider than those of a slice that was named beforehand.
    shortfall: accuracy of the rest minus accuracy here; shortfall_bound: its lower bound.
    """

    result: SliceResult
    shortfall: float
    shortfall_bound: float
    num_searched: int

    @property
    def is_shown(self) -> bool:
        """Whether the slice is worse beyond chance."""
        return self.shortfall > 0 and self.result.p_value is not None and self.result.p_value < SIGNIFICANCE

    @property
    def sentence(self) -> str:
        result = self.result
        looked = f"of {self.num_searched:,} slices looked at"
        if not self.is_shown:
            return f"No slice is worse than the rest beyond chance ({looked}; worst by lower bound: {result.name})."
        return (
            f"Worst by lower bound, {looked}: {result.name}. {100 * result.accuracy:.1f} % of {result.num_images:,} "
            f"images right, {100 * self.shortfall:.1f} points less than the rest (at least "
            f"{max(0.0, 100 * self.shortfall_bound):.1f}; p = {result.p_value:.2g}, raised for the search)."
        )

    def to_dict(self) -> dict[str, Any]:
        own = {"shortfall": self.shortfall, "shortfall_bound": self.shortfall_bound, "num_searched": self.num_searched}
        return {"sentence": self.sentence, "is_shown": self.is_shown, **own, "result": self.result.to_dict()}


@dataclass(frozen=True)
class SliceReport:
    """All slices of single columns in the order of the columns, and the worst one of these and of pairs of columns.

    worst: None where no slice has `min_images` with as many in the rest.
    """

    num_images: int
    num_correct: int
    accuracy: float
    interval: Interval
    min_images: int
    slices: tuple[SliceResult, ...]
    worst: WorstSlice | None

    @property
    def significant(self) -> tuple[SliceResult, ...]:
        """Slices that differ from the rest beyond chance, worst first."""
        found = [entry for entry in self.slices if entry.p_value is not None and entry.p_value < SIGNIFICANCE]
        return tuple(sorted(found, key=lambda entry: entry.difference or 0.0))

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        own = {name: value for name, value in vars(self).items() if name not in ("slices", "worst")}
        return {
            **own,
            "interval": list(self.interval),
            "slices": [entry.to_dict() for entry in self.slices],
            "significant": [entry.name for entry in self.significant],
            "worst": self.worst.to_dict() if self.worst else None,
        }


def slice_report(
    predictions: Predictions,
    columns: Mapping[str, Sequence[Any] | NDArray[Any]],
    class_groups: Mapping[str, Sequence[str]] | None = None,
    min_images: int = MIN_IMAGES,
) -> SliceReport:
    """Accuracy of every slice of the columns, each against the rest, and the worst slice.

    Args:
        columns: name -> N values in the order of the images; numbers are binned (`slice_column`). Facts of the
            pictures themselves: `convcraft.data.image_statistics.image_facts`.
        class_groups: name -> classes; makes one more column, by the true class.
        min_images: a slice with fewer, or with fewer in the rest, is shown but neither tested nor searched.

    Raises:
        UserError: no images, no targets, a column of another length, or groups that do not fit the classes.
    """
    targets = labelled_targets(predictions)
    correct = predictions.labels == targets
    for name, values in columns.items():
        if len(values) != len(correct):
            raise UserError(
                f"column {name!r} of {len(values)} values", f"{len(correct)}, one per image", "Join it by image name."
            )
    parted = [slice_column(name, values, min_images) for name, values in columns.items()]
    if class_groups:
        parted.append(class_group_column(class_groups, predictions.classes, targets))
    total = int(correct.sum())
    singles = [_single_results(column, correct, min_images) for column in parted]
    return SliceReport(
        num_images=len(correct),
        num_correct=total,
        accuracy=total / len(correct),
        interval=wilson_interval(total, len(correct)),
        min_images=min_images,
        slices=_raised(singles),
        worst=_worst([entry for entries in singles for entry in entries], parted, correct, min_images),
    )


def _result(
    conditions: Conditions, counts: tuple[int, int], rest: tuple[int, int], min_images: int, confidence: float = 0.95
) -> SliceResult:
    """counts, rest: (correct, images); the p-value is that of this slice alone."""
    (here, images), (elsewhere, others) = counts, rest
    return SliceResult(
        conditions=conditions,
        num_images=images,
        num_correct=here,
        accuracy=here / images,
        interval=wilson_interval(here, images, confidence),
        rest_images=others,
        rest_correct=elsewhere,
        difference=here / images - elsewhere / others if others else None,
        difference_interval=newcombe_interval(*counts, *rest, confidence) if others else None,
        p_value=fisher_mid_p(*counts, *rest) if min(images, others) >= min_images else None,
    )


def _single_results(column: SliceColumn, correct: NDArray[np.bool_], min_images: int) -> list[SliceResult]:
    images = np.bincount(column.codes, minlength=len(column.values))
    right = np.bincount(column.codes[correct], minlength=len(column.values))
    total, everything = int(correct.sum()), len(correct)
    return [
        _result(
            ((column.name, value),), (int(here), int(count)), (total - int(here), everything - int(count)), min_images
        )
        for value, here, count in zip(column.values, right, images, strict=True)
    ]


def _raised(columns: Sequence[Sequence[SliceResult]]) -> tuple[SliceResult, ...]:
    """With p-values raised by Holm. The two slices of a column of two are one test: each is the other's rest."""
    tests: dict[tuple[int, int], float] = {}
    places: dict[tuple[int, int], tuple[int, int]] = {}
    for number, entries in enumerate(columns):
        for place, entry in enumerate(entries):
            if entry.p_value is not None:
                test = (number, 0 if len(entries) == 2 else place)
                places[number, place] = test
                tests[test] = entry.p_value
    raised = dict(zip(tests, holm(list(tests.values())), strict=True))
    return tuple(
        dataclasses.replace(entry, p_value=raised[places[number, place]]) if entry.p_value is not None else entry
        for number, entries in enumerate(columns)
        for place, entry in enumerate(entries)
    )


def _worst(
    singles: Sequence[SliceResult], columns: Sequence[SliceColumn], correct: NDArray[np.bool_], min_images: int
) -> WorstSlice | None:
    total, everything = int(correct.sum()), len(correct)
    candidates = [(entry.conditions, entry.num_correct, entry.num_images) for entry in singles]
    candidates += _pairs(columns, correct)
    searched = [each for each in candidates if min_images <= each[2] <= everything - min_images]
    if not searched:
        return None
    confidence = 1 - SIGNIFICANCE / len(searched)

    def bound(here: int, images: int) -> float:
        return newcombe_interval(total - here, everything - images, here, images, confidence)[0]

    conditions, here, images = max(searched, key=lambda each: bound(each[1], each[2]))  # of equals the first, a single
    found = _result(conditions, (here, images), (total - here, everything - images), min_images, confidence)
    assert found.p_value is not None
    assert found.difference is not None
    raised = dataclasses.replace(found, p_value=min(1.0, len(searched) * found.p_value))
    return WorstSlice(raised, -found.difference, bound(here, images), len(searched))


def _pairs(columns: Sequence[SliceColumn], correct: NDArray[np.bool_]) -> Iterator[tuple[Conditions, int, int]]:
    """Cells of two columns (conditions, correct, images) that are smaller than either of their slices."""
    for first, second in combinations(columns, 2):
        cells = first.codes * len(second.values) + second.codes
        images = np.bincount(cells, minlength=len(first.values) * len(second.values))
        right = np.bincount(cells[correct], minlength=len(images))
        table = images.reshape(len(first.values), len(second.values))
        for cell in np.flatnonzero(images):
            row, column = divmod(int(cell), len(second.values))
            if images[cell] < min(table[row].sum(), table[:, column].sum()):
                conditions = ((first.name, first.values[row]), (second.name, second.values[column]))
                yield conditions, int(right[cell]), int(images[cell])
