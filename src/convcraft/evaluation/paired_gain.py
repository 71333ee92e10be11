"""What one predictor has over another on the same images: the difference of accuracies with its paired interval."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.statistics import mcnemar_exact, paired_difference_interval


@dataclass(frozen=True)
class PairedGain:
    """before, after: accuracies, 0..1. gain: after - before; interval: of 95 %, paired. p_value: McNemar's, exact."""

    num_images: int
    before: float
    after: float
    gain: float
    interval: tuple[float, float]
    p_value: float

    @classmethod
    def of(
        cls, before_right: NDArray[np.bool_], after_right: NDArray[np.bool_], groups: ArrayLike | None = None
    ) -> PairedGain:
        """
        Args:
            before_right, after_right: bool [N], right or wrong on image i, at least one.
            groups: int [N], images that belong together; see `statistics`.
        """
        test = mcnemar_exact(before_right, after_right, groups)
        interval = paired_difference_interval(before_right, after_right, groups)
        before, after = float(before_right.mean()), float(after_right.mean())
        return cls(len(before_right), before, after, test.difference, interval, test.p_value)

    @property
    def is_sure(self) -> bool:
        """Whether the interval lies above 0."""
        return self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "num_images": self.num_images,
            "before": self.before,
            "after": self.after,
            "gain": self.gain,
            "interval": list(self.interval),
            "p_value": self.p_value,
        }
