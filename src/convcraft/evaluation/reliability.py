"""Does a confidence of 0.9 mean right nine times of ten?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CALIBRATION_BINS = 15  # Guo et al. 2017


@dataclass(frozen=True, eq=False)
class Calibration:
    """Does a confidence of 0.9 mean right nine times of ten? Equal-width bins of the confidence, (low, high].

    edges float64 [bins + 1]; counts int64, mean_confidence and accuracy float64 [bins] (0 where a bin is empty).
    expected_error: mean of |accuracy - confidence| over the images (ECE).
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean_confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    expected_error: float


def calibration(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> Calibration:
    """Accuracy against confidence in equal-width bins, and the expected calibration error.

    Args:
        confidence: float32 [N], probability of the predicted class, 0..1.
        correct: bool [N].

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, eq. 3.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    in_bin = np.maximum(counts, 1)
    mean_confidence = np.bincount(bins, weights=confidence, minlength=num_bins) / in_bin
    accuracy = np.bincount(bins, weights=correct, minlength=num_bins) / in_bin
    error = float((counts * np.abs(accuracy - mean_confidence)).sum() / max(len(confidence), 1))
    return Calibration(edges, counts.astype(np.int64), mean_confidence, accuracy, error)
