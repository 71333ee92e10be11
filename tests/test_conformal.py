"""Conformal sets by hand, against the theory over many draws, and the coverage report."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import betabinom
from sklearn.metrics import recall_score

from convcraft.errors import UserError
from convcraft.evaluation.conformal import (
    Conformal,
    coverage_band,
    finite_sample_quantile,
    fit_conformal,
    halves,
)
from convcraft.evaluation.coverage import coverage_report
from convcraft.evaluation.predictions import softmax
from convcraft.statistics import wilson_interval

OPTIONS = [("lac", False), ("aps", False), ("aps", True), ("raps", False), ("raps", True)]


def drawn(num_images: int, num_classes: int = 4, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Probabilities that are too sure by far, and targets."""
    random = np.random.default_rng(seed)
    true = random.normal(scale=1.5, size=(num_images, num_classes))
    targets = (true + random.gumbel(size=true.shape)).argmax(axis=1)
    return softmax(3 * true), targets


def test_lac_by_hand() -> None:
    """True classes at 0.9, 0.8 ... 0.1: scores 0.1 ... 0.9. ceil(10 * 0.8) = the 8th: 0.8."""
    of_target = np.arange(9, 0, -1) / 10
    rows = np.stack([of_target, 1 - of_target], axis=1)
    found = fit_conformal(rows, np.zeros(9, int), 0.8)
    assert found.thresholds == (pytest.approx(0.8),)
    sets = found.sets(np.array([[0.5, 0.5], [0.85, 0.15], [0.1, 0.9]]))
    assert sets.tolist() == [[True, True], [True, False], [False, True]]


def test_aps_and_raps_scores_by_hand() -> None:
    rows = np.array([[0.2, 0.5, 0.3]])
    plain = Conformal("aps", 0.9, (0.6,), (9,), 3)
    assert plain._scores(rows).tolist() == [pytest.approx([0.8, 0.0, 0.5])]
    assert plain.sets(rows).tolist() == [[False, True, True]]
    cut = Conformal("aps", 0.9, (0.6,), (9,), 3, randomised=True)
    assert cut._scores(rows, [0.25]).tolist() == [pytest.approx([0.85, 0.125, 0.575])]
    assert cut.sets(rows, [0.25]).tolist() == [[False, True, True]]
    assert cut.sets(rows, [0.5]).tolist() == [[False, True, False]]  # 0.5 + 0.5 * 0.3 = 0.65
    priced = Conformal("raps", 0.9, (0.6,), (9,), 3, penalty=0.1, free_ranks=1)
    assert priced._scores(rows).tolist() == [pytest.approx([1.0, 0.0, 0.6])]


def test_of_equal_probabilities_the_first_class_comes_first() -> None:
    for num_classes in (4, 64):
        sets = Conformal("aps", 0.9, (0.49,), (9,), num_classes).sets(np.full((1, num_classes), 1 / num_classes))
        assert sets[0].tolist() == [index < num_classes // 2 for index in range(num_classes)]


@pytest.mark.parametrize("method", ["aps", "raps"])
def test_without_chance_the_most_probable_class_is_always_in(method: str) -> None:
    rows, targets = drawn(500)
    found = fit_conformal(rows, targets, 0.5, method=method, free_ranks=0)
    assert found.sets(rows)[np.arange(500), rows.argmax(axis=1)].all()
    assert not Conformal("lac", 0.5, (0.05,), (9,), 4).sets(rows[rows.max(axis=1) < 0.9]).any()


def test_without_chance_a_sure_network_needs_no_more_than_a_class() -> None:
    """Right in 95 %, and very sure: 90 % are covered by the first class alone; nothing else may enter."""
    random = np.random.default_rng(0)
    targets, labels = np.zeros(1000, int), (random.random(1000) < 0.05).astype(int)
    rows = softmax(random.uniform(8, 12, (1000, 1)) * np.eye(3)[labels])
    assert (fit_conformal(rows, targets, 0.9, method="aps").sets(rows).sum(axis=1) == 1).all()


@pytest.mark.parametrize(
    ("num_images", "coverage", "rank"), [(9, 0.9, 9), (8, 0.9, None), (99, 0.95, 95), (99, 0.07, 7), (1, 0.5, 1)]
)
def test_rank_of_the_quantile(num_images: int, coverage: float, rank: int | None) -> None:
    found = finite_sample_quantile(np.random.default_rng(0).permutation(num_images) + 1.0, coverage)
    assert found == (math.inf if rank is None else rank)


def test_too_few_images_put_every_class_into_every_set() -> None:
    rows, targets = drawn(8)
    found = fit_conformal(rows, targets, 0.9)
    assert found.thresholds == (math.inf,)
    assert found.without_threshold == (0, 1, 2, 3)
    assert found.sets(rows).all()


@pytest.mark.parametrize(("method", "randomised"), OPTIONS)
def test_coverage_over_many_draws_follows_the_theory(method: str, randomised: bool) -> None:
    """Covered test images are beta-binomial; without chance scores tie (0 for the first class): more, never less."""
    num_fit, num_test, num_draws, coverage = 60, 200, 300, 0.85
    covered = []
    for seed in range(num_draws):
        rows, targets = drawn(num_fit + num_test, seed=seed)
        found = fit_conformal(
            rows[:num_fit], targets[:num_fit], coverage, method=method, randomised=randomised, seed=seed
        )
        sets = found.sets(rows[num_fit:])
        covered.append(sets[np.arange(num_test), targets[num_fit:]].sum())
    rank = math.ceil((num_fit + 1) * coverage)
    theory = betabinom(num_test, rank, num_fit + 1 - rank)
    standard_error = theory.std() / np.sqrt(num_draws)
    assert np.mean(covered) > theory.mean() - 3.5 * standard_error
    if method == "lac" or randomised:
        assert np.mean(covered) < theory.mean() + 3.5 * standard_error
        assert np.std(covered) == pytest.approx(theory.std(), rel=0.15)


def test_class_conditional_keeps_the_promise_for_the_hard_class() -> None:
    """Class 0 is often called class 1: one threshold for all covers it too rarely, its own one does not."""
    random = np.random.default_rng(0)
    targets = random.choice(3, 6000, p=[0.1, 0.45, 0.45])
    logits = random.normal(size=(6000, 3))
    logits[np.arange(6000), targets] += np.where(targets == 0, 0.0, 4.0)
    rows = softmax(logits)
    together = fit_conformal(rows[:3000], targets[:3000], 0.9).sets(rows[3000:])
    each = fit_conformal(rows[:3000], targets[:3000], 0.9, class_conditional=True)
    assert each.class_conditional
    before = coverage_report(together, targets[3000:]).per_class[0][1]
    after = coverage_report(each.sets(rows[3000:]), targets[3000:])
    assert before is not None
    assert before < 0.6
    low, high = coverage_band(each.num_images[0], 0.9, 0.999)
    assert all(low - 0.03 < entry[1] < high + 0.03 for entry in after.per_class if entry[1] is not None)


def test_a_class_without_images_is_in_every_set() -> None:
    rows, targets = drawn(300)
    few = targets != 2
    found = fit_conformal(rows[few], targets[few], 0.9, class_conditional=True)
    assert found.without_threshold == (2,)
    assert found.num_images[2] == 0
    assert found.sets(rows)[:, 2].all()


def test_chance_is_seeded_and_can_be_given() -> None:
    rows, targets = drawn(400)
    found = fit_conformal(rows, targets, 0.8, method="aps", randomised=True, seed=3)
    other = fit_conformal(rows, targets, 0.8, method="aps", randomised=True, seed=4)
    assert (found.sets(rows) == found.sets(rows)).all()
    assert (found.sets(rows) != other.sets(rows)).any()
    given = np.random.default_rng(1).random(400)
    assert (found.sets(rows[:7], given[:7]) == found.sets(rows, given)[:7]).all()


@pytest.mark.parametrize("class_conditional", [False, True])
@pytest.mark.parametrize(("method", "randomised"), OPTIONS)
def test_survives_json_exactly(method: str, randomised: bool, class_conditional: bool) -> None:
    rows, targets = drawn(30)
    found = fit_conformal(rows, targets, 0.9, method=method, randomised=randomised, class_conditional=class_conditional)
    again = Conformal.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found
    assert (again.sets(rows) == found.sets(rows)).all()


def test_the_band_holds_what_draws_give() -> None:
    assert coverage_band(100, 0.9) == pytest.approx((0.836, 0.951), abs=1e-3)
    assert coverage_band(8, 0.9) == (1.0, 1.0)
    random = np.random.default_rng(0)  # uniform scores: the true coverage of a threshold is the threshold
    thresholds = [finite_sample_quantile(random.random(40), 0.8) for _ in range(4000)]
    low, high = coverage_band(40, 0.8)
    assert np.mean([low <= threshold <= high for threshold in thresholds]) == pytest.approx(0.95, abs=0.012)


def test_halves_are_disjoint_and_stay_the_same() -> None:
    found = halves(201)
    assert not found.shared
    assert sorted([*found.temperature, *found.conformal]) == list(range(201))
    assert (halves(201).conformal == found.conformal).all()
    few = halves(199)
    assert few.shared
    assert few.temperature.tolist() == few.conformal.tolist() == list(range(199))


def test_coverage_report_by_hand() -> None:
    sets = np.array([[1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 0]], bool)
    report = coverage_report(sets, np.array([0, 0, 0, 1]))
    assert (report.coverage, report.mean_size) == (0.5, 1.0)
    assert (report.share_single, report.share_empty) == (0.5, 0.25)
    assert report.interval == wilson_interval(2, 4)
    assert report.per_class[0] == (3, pytest.approx(2 / 3), wilson_interval(2, 3), pytest.approx(4 / 3))
    assert report.per_class[2] == (0, None, None, None)
    assert json.loads(json.dumps(report.to_dict()))["per_class"][1]["coverage"] == 0.0


def test_coverage_of_sets_of_one_is_recall() -> None:
    rows, targets = drawn(500)
    labels = rows.argmax(axis=1)
    report = coverage_report(np.eye(4, dtype=bool)[labels], targets)
    assert [entry[1] for entry in report.per_class] == pytest.approx(recall_score(targets, labels, average=None))


@pytest.mark.parametrize(
    ("rows", "targets", "options", "message"),
    [
        (np.full((2, 2), 0.5), np.array([0, 2]), {}, "class indices 0..1"),
        (np.full((2, 2), 0.5), np.array([0]), {}, "targets int64"),
        (np.full((2, 2), 0.6), np.array([0, 1]), {}, "do not sum to 1"),
        (np.array([[np.nan, 1.0]]), np.array([0]), {}, "do not sum to 1"),
        (np.zeros((0, 2)), np.zeros(0, int), {}, "targets"),
        (np.full((2, 2), 0.5), np.array([0, 1]), {"coverage": 1.0}, "coverage 1.0"),
        (np.full((2, 2), 0.5), np.array([0, 1]), {"method": "thr"}, "method 'thr'"),
        (np.full((2, 2), 0.5), np.array([0, 1]), {"method": "raps", "penalty": -1.0}, "penalty"),
    ],
)
def test_bad_input_is_named(rows: NDArray[np.float64], targets: NDArray[np.int64], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_conformal(rows, targets, **options)


def test_sets_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match=r"probabilities \[1, 2\]"):
        fit_conformal(*drawn(20)).sets(np.array([[0.5, 0.5]]))
    with pytest.raises(UserError, match="conformal entries"):
        Conformal.from_dict({"method": "lac"})
