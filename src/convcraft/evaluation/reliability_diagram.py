"""The reliability diagram with its uncertainty: an interval per bin, and what calibration error chance alone gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.reliability import CALIBRATION_BINS, Calibration, calibration
from convcraft.statistics import bootstrap_interval, wilson_interval

LARGEST_BCA = 20_000  # images; beyond it the bias that BCa corrects is gone and its N evaluations are long


@dataclass(frozen=True, eq=False)
class ReliabilityDiagram:
    """Accuracy against confidence, bin by bin. Intervals are of 95 %.

    calibration: the bins and the ECE.
    accuracy_intervals: Wilson, of each bin's accuracy; (0, 1) where a bin is empty. A bin whose mean confidence lies
        inside says nothing against the network.
    error_interval: bootstrap over the images (BCa: every resample adds noise of its own, so that the plain percentile
        interval lies too high). An ECE is a mean of absolute differences and too large by about what chance alone
        gives; so is its interval, which never holds 0. Where the ECE is not several times `chance_error`, read it as an
        upper bound.
    chance_error: mean and 95 % point of the ECE that a perfectly calibrated network of these confidences would show on
        so many images. An ECE below the latter is no sign of miscalibration.
    """

    calibration: Calibration
    accuracy_intervals: tuple[tuple[float, float], ...]
    error_interval: tuple[float, float]
    chance_error: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON and for drawing."""
        found = self.calibration
        return {
            "edges": found.edges.tolist(),
            "counts": found.counts.tolist(),
            "mean_confidence": found.mean_confidence.tolist(),
            "accuracy": found.accuracy.tolist(),
            "accuracy_intervals": [list(interval) for interval in self.accuracy_intervals],
            "expected_calibration_error": found.expected_error,
            "expected_calibration_error_interval": list(self.error_interval),
            "chance_error": list(self.chance_error),
        }


def reliability_diagram(
    confidence: NDArray[np.float32],
    correct: NDArray[np.bool_],
    *,
    num_bins: int = CALIBRATION_BINS,
    num_resamples: int = 1000,
    seed: int = 0,
    groups: ArrayLike | None = None,
) -> ReliabilityDiagram:
    """The diagram of predictions on labelled images that nothing was fitted on.

    Args:
        confidence: float32 [N], probability of the predicted class, 0..1.
        correct: bool [N].
        groups: int [N]; images that belong together are drawn together in the bootstrap.

    Raises:
        UserError: no images, or arrays that do not fit each other.

    Source: Broecker and Smith, "Increasing the reliability of reliability diagrams", Weather and Forecasting 22 (2007),
    for what chance alone gives.
    """
    if not len(confidence) or confidence.shape != correct.shape or correct.dtype != bool:
        received = f"confidence {list(confidence.shape)}, correct {correct.dtype} {list(correct.shape)}"
        raise UserError(received, "float [N] and bool [N] of at least one image", "Give labelled images.")
    found = calibration(confidence, correct, num_bins)
    hits = np.rint(found.accuracy * found.counts).astype(int)
    # One pass over the bins per resample: the bin of an image does not change, only how often it is drawn.
    bins = np.clip(np.searchsorted(found.edges, confidence, side="left") - 1, 0, num_bins - 1)
    gaps = correct.astype(np.float64) - confidence

    def error(drawn: NDArray[np.int64]) -> float:
        return float(np.abs(np.bincount(bins[drawn], weights=gaps[drawn], minlength=num_bins)).sum() / len(drawn))

    method = "bca" if 1 < len(confidence) <= LARGEST_BCA else "percentile"
    interval = bootstrap_interval(
        error, len(confidence), num_resamples=num_resamples, seed=seed, method=method, groups=groups
    )
    return ReliabilityDiagram(
        calibration=found,
        accuracy_intervals=tuple(
            wilson_interval(int(hit), int(count)) for hit, count in zip(hits, found.counts, strict=True)
        ),
        error_interval=interval,
        chance_error=_chance_error(confidence.astype(np.float64), bins, num_bins, num_resamples, seed),
    )


def _chance_error(
    confidence: NDArray[np.float64], bins: NDArray[np.int64], num_bins: int, num_draws: int, seed: int
) -> tuple[float, float]:
    """Mean and 95 % point of the ECE where each image is right with just the probability that was said."""
    random = np.random.default_rng(seed)
    errors = []
    for _ in range(num_draws):
        right = random.random(len(confidence)) < confidence
        gaps = right.astype(np.float64) - confidence
        errors.append(float(np.abs(np.bincount(bins, weights=gaps, minlength=num_bins)).sum() / len(confidence)))
    return float(np.mean(errors)), float(np.quantile(errors, 0.95))
