"""Intervals and paired tests: how sure a measured number is.

A proportion gets Wilson's interval, any other figure a bootstrap interval, two classifiers on the same images the exact
McNemar test, repeated runs their mean and spread. NumPy and the standard library, but for Student's t (SciPy).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError

BOOTSTRAP_METHODS = ("percentile", "bca")


def wilson_interval(num_correct: int, num_trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The score interval of a proportion, sound also near 0 and 1 and for few trials.

    No trials know nothing: (0, 1).

    Raises:
        UserError: counts that are no counts, or a confidence outside 0..1.

    Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

        >>> low, high = wilson_interval(355, 360)
        >>> round(low, 4), round(high, 4)
        (0.968, 0.9941)
    """
    _check_confidence(confidence)
    if not 0 <= num_correct <= num_trials:
        raise UserError(f"{num_correct} correct of {num_trials} trials", "0 <= correct <= trials", "Check the counts.")
    if num_trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = num_correct / num_trials
    scale = 1 + z * z / num_trials
    centre = (share + z * z / (2 * num_trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / num_trials + z * z / (4 * num_trials**2))
    # At the ends the bound is the end itself; rounding would leave it 1e-17 beside.
    low = 0.0 if num_correct == 0 else max(0.0, centre - half)
    high = 1.0 if num_correct == num_trials else min(1.0, centre + half)
    return low, high


def bootstrap_interval(
    statistic: Callable[[NDArray[np.int64]], float],
    num_items: int,
    *,
    confidence: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
    method: str = "percentile",
) -> tuple[float, float]:
    """The bootstrap interval of any figure computed from a set of items (macro F1, a difference of two models).

    Args:
        statistic: gives the figure of the items at these indices, int64 [n] in 0..num_items-1, with repeats.
            Indices instead of values keep paired data paired.
        num_items: how many items were measured.
        num_resamples: 2,000 steadies a 95 % interval; more for a higher confidence.
        seed: the same seed gives the same interval.
        method: "percentile", or "bca", which corrects bias and skew at the cost of num_items further evaluations.

    Raises:
        UserError: no items, an unknown method, or a confidence outside 0..1.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), chapters 13 and 14 (BCa: 14.3).
    """
    _check_confidence(confidence)
    if num_items < 1 or num_resamples < 1:
        raise UserError(f"{num_items} items, {num_resamples} resamples", "at least one of each", "Give some data.")
    if method not in BOOTSTRAP_METHODS:
        raise UserError(f"method {method!r}", " or ".join(BOOTSTRAP_METHODS), "Choose one of these.")
    random = np.random.default_rng(seed)
    figures = np.sort([statistic(random.integers(0, num_items, num_items)) for _ in range(num_resamples)])
    tails = ((1 - confidence) / 2, (1 + confidence) / 2)
    if method == "bca":
        tails = _bca_tails(statistic, num_items, figures, tails)
    low, high = np.quantile(figures, tails)
    return float(low), float(high)


def _bca_tails(
    statistic: Callable[[NDArray[np.int64]], float],
    num_items: int,
    figures: NDArray[np.float64],
    tails: tuple[float, float],
) -> tuple[float, float]:
    """The quantiles of the bootstrap figures that take the place of `tails` (Efron and Tibshirani, eq. 14.10)."""
    normal = NormalDist()
    everything = np.arange(num_items, dtype=np.int64)
    observed = statistic(everything)
    # Ties count half: a figure that takes few values (accuracy on ten images) would look biased otherwise.
    below = float(np.mean(figures < observed) + np.mean(figures == observed) / 2)
    edge = 0.5 / len(figures)
    bias = normal.inv_cdf(min(max(below, edge), 1 - edge))
    left_out = np.array(
        [statistic(np.delete(everything, item)) for item in range(num_items)] if num_items > 1 else [0.0]
    )
    distance = left_out.mean() - left_out
    spread = float((distance**2).sum()) ** 1.5
    acceleration = float((distance**3).sum()) / (6 * spread) if spread > 0 else 0.0

    def corrected(tail: float) -> float:
        moved = bias + normal.inv_cdf(tail)
        return normal.cdf(bias + moved / (1 - acceleration * moved))

    return corrected(tails[0]), corrected(tails[1])


@dataclass(frozen=True)
class PairedTest:
    """Two classifiers on the same items: where just one of them is right, and how likely that is by chance.

    difference: accuracy of the second minus accuracy of the first.
    """

    num_items: int
    only_first: int
    only_second: int
    difference: float
    p_value: float


def mcnemar_exact(first_correct: ArrayLike, second_correct: ArrayLike) -> PairedTest:
    """Is one of two classifiers better, judged by the items on which they disagree?

    Args:
        first_correct, second_correct: bool [N], right or wrong on item i, both in the same order.

    Returns:
        the counts and the exact two-sided p-value: 2 P(X <= min(b, c)), X ~ Binomial(b + c, 1/2), at most 1.

    Raises:
        UserError: arrays of unlike length, or not boolean.

    Source: McNemar, Psychometrika 12 (1947), in its exact (binomial) form.
    """
    first, second = np.asarray(first_correct), np.asarray(second_correct)
    if first.shape != second.shape or first.ndim != 1 or first.dtype != bool or second.dtype != bool:
        raise UserError(
            f"{first.dtype} {first.shape} and {second.dtype} {second.shape}",
            "two boolean arrays of the same length",
            "Give `labels == targets` of both classifiers on the same images.",
        )
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    return PairedTest(
        num_items=len(first),
        only_first=only_first,
        only_second=only_second,
        difference=(only_second - only_first) / max(len(first), 1),
        p_value=_sign_test(min(only_first, only_second), only_first + only_second),
    )


def _sign_test(fewer: int, total: int) -> float:
    """2 P(X <= fewer) for X ~ Binomial(total, 1/2), in whole numbers, so exact for any counts."""
    ways, term = 0, 1
    for successes in range(fewer + 1):
        ways += term
        term = term * (total - successes) // (successes + 1)
    return min(1.0, 2 * ways / (1 << total))


@dataclass(frozen=True)
class Spread:
    """Repeated measurements of one figure. With a single value std and interval are None: nothing is known of them."""

    mean: float
    std: float | None
    minimum: float
    maximum: float
    num_values: int
    interval: tuple[float, float] | None


def mean_and_spread(values: Sequence[float], confidence: float = 0.95) -> Spread:
    """Mean, sample standard deviation (n - 1), range and Student's t interval of the mean (over seeds, over folds).

    Raises:
        UserError: no values, values that are not finite, or a confidence outside 0..1.

        >>> mean_and_spread([0.9961, 0.9963, 0.9959]).mean
        0.9961
    """
    _check_confidence(confidence)
    numbers = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise UserError(f"values {values!r}", "a list of at least one finite number", "Leave out runs that failed.")
    std, interval = None, None
    mean = math.fsum(numbers) / len(numbers)
    if len(numbers) > 1:
        from scipy.special import stdtrit  # SciPy belongs to the train extra; the intervals above go without

        std = float(numbers.std(ddof=1))
        half = float(stdtrit(len(numbers) - 1, (1 + confidence) / 2)) * std / math.sqrt(len(numbers))
        interval = (mean - half, mean + half)
    return Spread(mean, std, float(numbers.min()), float(numbers.max()), len(numbers), interval)


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise UserError(f"confidence {confidence}", "a number between 0 and 1", "0.95 is usual.")
