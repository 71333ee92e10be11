"""Intervals and paired tests against SciPy and against simulated coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from convcraft.errors import UserError
from convcraft.statistics import bootstrap_interval, mcnemar_exact, mean_and_spread, wilson_interval


@pytest.mark.parametrize(("correct", "trials"), [(0, 1), (1, 1), (0, 50), (50, 50), (355, 360), (9961, 10000), (3, 7)])
@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_equals_scipy(correct: int, trials: int, confidence: float) -> None:
    expected = stats.binomtest(correct, trials).proportion_ci(confidence, method="wilson")
    assert wilson_interval(correct, trials, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_stays_within_0_and_1_and_knows_nothing_without_trials() -> None:
    assert wilson_interval(0, 10)[0] == 0.0
    assert wilson_interval(10, 10)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "trials", "confidence"), [(5, 4, 0.95), (-1, 4, 0.95), (1, 4, 1.0), (1, 4, 95)])
def test_wilson_refuses_what_is_no_proportion(correct: int, trials: int, confidence: float) -> None:
    with pytest.raises(UserError):
        wilson_interval(correct, trials, confidence)


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_agrees_with_scipy(method: str) -> None:
    values = np.random.default_rng(3).lognormal(size=60)  # skewed, so that the two methods differ
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method=method, rng=np.random.default_rng(0)
    ).confidence_interval
    found = bootstrap_interval(
        lambda rows: float(values[rows].mean()), len(values), num_resamples=20_000, method=method
    )
    assert found == pytest.approx((expected.low, expected.high), rel=0.02)


def test_bootstrap_is_a_function_of_its_seed() -> None:
    values = np.random.default_rng(0).normal(size=30)

    def interval(seed: int) -> tuple[float, float]:
        return bootstrap_interval(lambda rows: float(values[rows].mean()), 30, num_resamples=50, seed=seed)

    assert interval(1) == interval(1)
    assert interval(1) != interval(2)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        values = random.normal(size=40)
        low, high = bootstrap_interval(lambda rows, v=values: float(v[rows].mean()), 40, num_resamples=200, seed=seed)
        hits += low <= 0 <= high
    assert 0.88 <= hits / 200 <= 0.98


@pytest.mark.parametrize("method", ["percentile", "bca"])
def test_bootstrap_of_one_item_or_of_equal_items_is_a_point(method: str) -> None:
    assert bootstrap_interval(lambda rows: 0.5, 1, num_resamples=10, method=method) == (0.5, 0.5)
    assert bootstrap_interval(lambda rows: 0.5, 9, num_resamples=10, method=method) == (0.5, 0.5)


def test_bootstrap_refuses_unknown_methods_and_no_items() -> None:
    with pytest.raises(UserError, match="percentile or bca"):
        bootstrap_interval(lambda rows: 0.0, 5, method="normal")
    with pytest.raises(UserError):
        bootstrap_interval(lambda rows: 0.0, 0)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (0, 6), (3, 11), (40, 41), (500, 400), (6000, 5000)])
def test_mcnemar_equals_the_binomial_test(only_first: int, only_second: int) -> None:
    first = np.array([True] * only_first + [False] * only_second + [True] * 5 + [False] * 3)
    second = np.array([False] * only_first + [True] * only_second + [True] * 5 + [False] * 3)
    test = mcnemar_exact(first, second)
    discordant = only_first + only_second
    expected = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    assert (test.only_first, test.only_second, test.num_items) == (only_first, only_second, len(first))
    assert test.p_value == pytest.approx(expected, rel=1e-8)
    assert test.difference == pytest.approx(second.mean() - first.mean())


def test_mcnemar_refuses_labels_and_unlike_lengths() -> None:
    with pytest.raises(UserError):
        mcnemar_exact(np.array([1, 0]), np.array([1, 1]))
    with pytest.raises(UserError):
        mcnemar_exact(np.array([True]), np.array([True, False]))


def test_mean_and_spread_equals_scipy() -> None:
    values = [0.9961, 0.9963, 0.9950, 0.9957]
    spread = mean_and_spread(values)
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert spread.interval == pytest.approx((low, high), abs=1e-12)
    assert spread.std == pytest.approx(np.std(values, ddof=1))
    assert (spread.minimum, spread.maximum, spread.num_values) == (0.9950, 0.9963, 4)


def test_one_value_has_no_spread_and_failed_runs_are_refused() -> None:
    assert mean_and_spread([0.5]).std is None
    assert mean_and_spread([0.5]).interval is None
    for values in ([], [0.5, float("nan")]):
        with pytest.raises(UserError):
            mean_and_spread(values)
