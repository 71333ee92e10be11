"""Two sets of predictions compared: figures against SciPy, scikit-learn and formulas by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn.metrics import cohen_kappa_score

from convcraft.errors import UserError
from convcraft.evaluation.agreement import cohen_kappa, compare_predictions
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.finetune.proof import Spent, prove
from convcraft.statistics import holm, wilson_interval

CLASSES = ("ant", "bee", "cat")


def calling(
    labels: NDArray[np.int64], targets: NDArray[np.int64] | None, classes: tuple[str, ...] = CLASSES
) -> Predictions:
    table = np.full((len(labels), len(classes)), 0.1, np.float32)
    table[np.arange(len(labels)), labels] = 1 - 0.1 * (len(classes) - 1)
    return Predictions(classes, table, targets, tuple(f"{row}.png" for row in range(len(labels))))


def pair(both: int, only_first: int, only_second: int, neither: int = 0) -> tuple[Predictions, Predictions]:
    right = np.repeat([True, True, False, False], [both, only_first, only_second, neither])
    now_right = np.repeat([True, False, True, False], [both, only_first, only_second, neither])
    targets = np.arange(len(right)) % 3
    sides = [calling(np.where(hits, targets, (targets + 1) % 3), targets) for hits in (right, now_right)]
    return sides[0], sides[1]


def test_figures_are_those_of_the_pairs() -> None:
    found = compare_predictions(*pair(230, 2, 14, 5), ("A", "B"))
    assert found.num_images == found.num_groups == 251
    assert found.accuracies == pytest.approx((232 / 251, 244 / 251))
    assert found.intervals == (pytest.approx(wilson_interval(232, 251)), pytest.approx(wilson_interval(244, 251)))
    assert found.difference == pytest.approx(12 / 251)
    # Bonett and Price, eq. 5: one more image counted in for either side
    centre, parted = 12 / 253, 18 / 253
    half = stats.norm.ppf(0.975) * np.sqrt((parted - centre**2) / 253)
    assert found.difference_interval == pytest.approx((centre - half, centre + half))
    assert found.p_value == pytest.approx(stats.binomtest(2, 16).pvalue)
    assert (found.both_right, found.both_wrong, found.same_mistake) == (230, 5, 5)
    assert found.agreement == pytest.approx(235 / 251)
    assert (len(found.only_first), len(found.only_second)) == (2, 14)
    assert [change.name for change in found.only_first] == ["230.png", "231.png"]
    assert found.better == "B"
    assert found.verdict.startswith("B is better than A by 4.8 points of accuracy (95 %: ")
    assert "14 images only B gets right, 2 only A; p = 0.0042." in found.verdict
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_sides_can_be_changed() -> None:
    first, second = pair(100, 12, 1)
    there, back = compare_predictions(first, second, ("A", "B")), compare_predictions(second, first, ("B", "A"))
    assert there.better == back.better == "A"
    assert there.difference == pytest.approx(-back.difference)
    assert there.kappa == pytest.approx(back.kappa)
    assert there.verdict.startswith("A is better than B")


def test_what_is_not_shown_is_not_said() -> None:
    found = compare_predictions(*pair(100, 4, 6, 3))
    assert found.better is None
    assert found.verdict.startswith("Neither is shown to be better: 6 images only the second gets right, 4 only")
    assert f"less than about {100 * found.smallest_detectable:.1f} points" in found.verdict
    same = compare_predictions(*pair(50, 0, 0))
    assert (same.p_value, same.difference, same.agreement, same.kappa) == (1.0, 0.0, 1.0, pytest.approx(1.0))
    assert same.difference_interval[0] < 0 < same.difference_interval[1]
    assert same.only_first == same.only_second == ()


def test_classes_are_tested_one_by_one_and_raised_for_their_number() -> None:
    targets = np.repeat([0, 1], [60, 60])
    first = calling(np.where(np.arange(120) < 12, 1, targets), targets)
    second = calling(np.where(np.arange(120) >= 115, 0, targets), targets)
    found = compare_predictions(first, second)
    ant, bee, cat = found.per_class
    alone = [stats.binomtest(0, 12).pvalue, stats.binomtest(0, 5).pvalue]
    assert [ant.p_value, bee.p_value] == pytest.approx(holm(alone))
    assert (ant.gained, ant.lost, bee.gained, bee.lost) == (12, 0, 0, 5)
    assert (ant.difference, bee.difference) == (pytest.approx(0.2), pytest.approx(-5 / 60))
    assert (cat.num_images, cat.p_value, cat.interval) == (0, None, None)


@pytest.mark.parametrize("seed", range(10))
def test_kappa_equals_scikit_learn(seed: int) -> None:
    random = np.random.default_rng(seed)
    first = random.integers(0, 4, 60)
    second = np.where(random.random(60) < 0.6, first, random.integers(0, 5, 60))
    assert cohen_kappa(first, second, 6) == pytest.approx(cohen_kappa_score(first, second))


def test_kappa_needs_more_than_one_class() -> None:
    zeros = np.zeros(5, np.int64)
    assert cohen_kappa(zeros, zeros, 3) is None
    assert cohen_kappa(zeros, zeros + 1, 3) == 0.0
    found = compare_predictions(calling(zeros, zeros), calling(zeros, zeros))
    assert found.kappa is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_one_image_and_all_wrong() -> None:
    for counts in ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 0, 1)):
        found = compare_predictions(*pair(*counts))
        assert found.p_value == 1.0
        assert found.better is None


def test_near_copies_are_one_witness() -> None:
    first, second = pair(40, 0, 6)
    rows = np.repeat(np.arange(46), 5)
    copied = [
        Predictions(CLASSES, side.probabilities[rows], np.arange(46)[rows] % 3, tuple(map(str, range(230))))
        for side in (first, second)
    ]
    alone, grouped = compare_predictions(first, second), compare_predictions(*copied, groups=rows)
    assert grouped.p_value == pytest.approx(alone.p_value)
    assert grouped.num_groups == 46
    assert grouped.intervals[0] == pytest.approx(alone.intervals[0])
    assert compare_predictions(*copied).p_value < grouped.p_value / 100


def test_it_says_what_the_proof_says() -> None:
    """The comparison of before and after rests on the same figures."""
    random = np.random.default_rng(1)
    targets = random.integers(0, 3, 150)
    tables = [softmax(random.normal(size=(150, 3)) + size * np.eye(3)[targets]) for size in (1, 2)]
    names = tuple(map(str, range(150)))
    proof = prove(CLASSES, names, targets, *tables, how="part", spent=Spent(1, 1, 1, 1), num_resamples=50)
    found = compare_predictions(*(Predictions(CLASSES, table, targets, names) for table in tables))
    assert (found.p_value, found.difference) == (proof.p_value, proof.difference)
    assert (found.only_second, found.only_first) == (proof.gained, proof.lost)
    assert found.per_class == proof.per_class


def test_what_differs_is_named() -> None:
    labels = np.array([0, 1, 2, 0])
    first = calling(labels, labels)

    def renamed(names: tuple[str, ...], targets: NDArray[np.int64] = labels) -> Predictions:
        return Predictions(CLASSES, first.probabilities[: len(names)], targets[: len(names)], names)

    cases = [
        (calling(labels, labels, ("ant", "bee", "dog")), r"1 classes only in the first \(cat\).*second \(dog\)"),
        (calling(labels, labels, ("bee", "ant", "cat")), "classes in another order: at 0 ant and bee"),
        (renamed(("0.png", "1.png", "2.png", "x.png")), r"only in the first \(3.png\).*only in the second \(x.png\)"),
        (renamed(("0.png", "1.png", "2.png")), r"1 image names only in the first \(3.png\)"),
        (renamed(("1.png", "0.png", "2.png", "3.png")), "another order: at 0 0.png and 1.png"),
        (renamed(first.names, np.array([0, 1, 1, 0])), r"1 images with two true classes \(2.png: cat or bee\)"),
        (calling(labels, None), "without labels"),
    ]
    for second, words in cases:
        with pytest.raises(UserError, match=words):
            compare_predictions(first, second)
    repeated = Predictions(CLASSES, first.probabilities[:2], labels[:2], ("0.png", "0.png"))
    with pytest.raises(UserError, match="repeated"):
        compare_predictions(repeated, renamed(("0.png",)))
