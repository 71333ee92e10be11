"""Whether sets of classes keep what was promised: how often they hold the true class, and how large they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.statistics import wilson_interval


@dataclass(frozen=True)
class CoverageReport:
    """How often sets held the true class, and how large they were. Intervals: Wilson, 95 %.

    per_class: (number of images, coverage, its interval, mean size) of each class; coverage and size None where it has
        no images.
    """

    num_images: int
    coverage: float
    interval: tuple[float, float]
    mean_size: float
    share_single: float
    share_empty: float
    per_class: tuple[tuple[int, float | None, tuple[float, float] | None, float | None], ...]

    def to_dict(self) -> dict[str, Any]:
        names = ("num_images", "coverage", "interval", "mean_size")
        return {**asdict(self), "per_class": [dict(zip(names, entry, strict=True)) for entry in self.per_class]}


def coverage_report(sets: NDArray[np.bool_], targets: ArrayLike) -> CoverageReport:
    """Judge sets bool [N, K] by labelled images that nothing was fitted on.

    Raises:
        UserError: no images, or targets that do not fit the sets.
    """
    labels = np.asarray(targets)
    if not len(sets) or labels.shape != (len(sets),) or labels.min() < 0 or labels.max() >= sets.shape[1]:
        received = f"sets {list(sets.shape)}, targets {list(labels.shape)}"
        raise UserError(received, "one class index per row of the sets", "Give the labels of the same images.")
    covered, sizes = sets[np.arange(len(sets)), labels], sets.sum(axis=1)
    per_class = []
    for index in range(sets.shape[1]):
        own = labels == index
        count, hits = int(own.sum()), int(covered[own].sum())
        known = (hits / count, wilson_interval(hits, count), float(sizes[own].mean())) if count else (None, None, None)
        per_class.append((count, *known))
    return CoverageReport(
        num_images=len(sets),
        coverage=float(covered.mean()),
        interval=wilson_interval(int(covered.sum()), len(sets)),
        mean_size=float(sizes.mean()),
        share_single=float((sizes == 1).mean()),
        share_empty=float((sizes == 0).mean()),
        per_class=tuple(per_class),
    )
