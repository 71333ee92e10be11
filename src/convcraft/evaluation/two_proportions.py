"""Two shares of different images: an interval of their difference and a test (paired images: `mcnemar_exact`)."""

from __future__ import annotations

import math

from convcraft.statistics import wilson_interval


def newcombe_interval(
    first_correct: int, first_total: int, second_correct: int, second_total: int, confidence: float = 0.95
) -> tuple[float, float]:
    """Interval of first share - second share; either side may have no images, which then know nothing.

    Source: Newcombe, "Interval estimation for the difference between independent proportions", Statistics in Medicine
    17 (1998), method 10 (from two Wilson intervals).
    """
    first_low, first_high = wilson_interval(first_correct, first_total, confidence)
    second_low, second_high = wilson_interval(second_correct, second_total, confidence)
    first, second = first_correct / max(first_total, 1), second_correct / max(second_total, 1)
    below = math.hypot(first - first_low, second_high - second)
    above = math.hypot(first_high - first, second - second_low)
    return max(-1.0, first - second - below), min(1.0, first - second + above)


def fisher_mid_p(first_correct: int, first_total: int, second_correct: int, second_total: int) -> float:
    """Two-sided p-value of equal shares: Fisher's exact test with half the weight of what was seen.

    The exact test rejects true equality far less often than it says; mid-p does so about as often.

    Source: Lancaster, "Significance tests in discrete distributions", JASA 56 (1961); twice the smaller tail.
    """
    from scipy.stats import hypergeom  # SciPy belongs to the train extra

    drawn = hypergeom(first_total + second_total, first_correct + second_correct, first_total)
    half = float(drawn.pmf(first_correct)) / 2
    below, above = float(drawn.cdf(first_correct)) - half, float(drawn.sf(first_correct)) + half
    return min(1.0, max(0.0, 2 * min(below, above)))
