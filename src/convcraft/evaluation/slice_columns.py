"""From a column of metadata to named groups of images: categories, quantile bins of numbers, groups of classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError

MIN_IMAGES = 20
MAX_BINS = 5
MISSING = "(missing)"
NO_GROUP = "(no group)"
CLASS_GROUP = "class group"


@dataclass(frozen=True, eq=False)
class SliceColumn:
    """A column that parts the images: image n is in the slice values[codes[n]].

    values: V names, each of at least one image. codes: int64 [N].
    """

    name: str
    values: tuple[str, ...]
    codes: NDArray[np.int64]


def slice_column(
    name: str, values: Sequence[Any] | NDArray[Any], min_images: int = MIN_IMAGES, max_bins: int = MAX_BINS
) -> SliceColumn:
    """Slices of one column.

    Numbers fall into at most `max_bins` quantile bins; equal numbers are never parted, and a bin of fewer than
    `min_images` joins its smaller neighbour. Anything else is a category; categories of fewer than `min_images` are
    pooled. None and NaN make a slice of their own.

    Args:
        values: one per image: numbers, text, truth values, None.
    """
    given = [None if _is_missing(value) else value for value in values]
    known = np.array([value is not None for value in given], dtype=bool)
    present = [value for value in given if value is not None]
    labels = np.full(len(given), MISSING, dtype=object)
    if present and all(isinstance(value, Real) and not isinstance(value, bool | np.bool_) for value in present):
        labels[known], order = _bins(np.array(present, dtype=np.float64), min_images, max_bins)
    else:
        labels[known], order = _categories([str(value) for value in present], min_images)
    if not known.all():
        order.append(MISSING)
    codes = {label: code for code, label in enumerate(order)}
    return SliceColumn(name, tuple(order), np.array([codes[label] for label in labels], dtype=np.int64))


def class_group_column(
    groups: Mapping[str, Sequence[str]], classes: Sequence[str], targets: NDArray[np.int64]
) -> SliceColumn:
    """Images by the group of their true class; classes in no group form one of their own.

    Args:
        groups: name of the group -> its classes.

    Raises:
        UserError: a class that does not exist, or is in two groups.
    """
    group_of: dict[str, str] = {}
    for group, members in groups.items():
        for member in members:
            if member not in classes:
                raise UserError(
                    f"class {member!r} in group {group!r}", "one of " + ", ".join(classes[:20]), "Check its name."
                )
            if group_of.setdefault(member, group) != group:
                raise UserError(
                    f"class {member!r} in {group_of[member]!r} and {group!r}", "one group per class", "Choose one."
                )
    of_class = [group_of.get(name, NO_GROUP) for name in classes]
    names, codes = np.unique(np.array(of_class)[targets], return_inverse=True)
    return SliceColumn(CLASS_GROUP, tuple(map(str, names)), codes.astype(np.int64))


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and math.isnan(value))


def _categories(values: list[str], min_images: int) -> tuple[list[str], list[str]]:
    """The label of each image, and all labels in order."""
    names, counts = np.unique(np.array(values, dtype=str), return_counts=True)
    small = {str(name) for name, count in zip(names, counts, strict=True) if count < min_images}
    if len(small) < 2:  # nothing to pool
        return values, [str(name) for name in names]
    pooled = f"(other: {len(small)} values)"
    return [pooled if value in small else value for value in values], [
        *(str(name) for name in names if str(name) not in small),
        pooled,
    ]


def _bins(values: NDArray[np.float64], min_images: int, max_bins: int) -> tuple[list[str], list[str]]:
    """The label ("3 to 7.5", its smallest and largest number) of each image, and all labels in rising order."""
    last = (len(values) * np.arange(1, max_bins) + max_bins - 1) // max_bins - 1  # place of each bin's largest number
    tops = np.unique(np.sort(values)[np.maximum(last, 0)])
    codes = np.unique(np.searchsorted(tops, values, side="left"), return_inverse=True)[1]
    counts = np.bincount(codes)
    while len(counts) > 1 and counts.min() < min_images:
        smallest = int(counts.argmin())
        neighbours = [place for place in (smallest - 1, smallest + 1) if 0 <= place < len(counts)]
        into = min(neighbours, key=lambda place: int(counts[place]))
        codes = np.where(codes >= max(smallest, into), codes - 1, codes)
        counts = np.bincount(codes)
    for digits in (4, 8, 17):
        names = [_range(values[codes == code], digits) for code in range(len(counts))]
        if len(set(names)) == len(names):
            break
    return [names[code] for code in codes], names


def _range(values: NDArray[np.float64], digits: int) -> str:
    low, high = f"{values.min():.{digits}g}", f"{values.max():.{digits}g}"
    return low if low == high else f"{low} to {high}"
