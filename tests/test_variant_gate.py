"""The gate for optimised networks: whom it lets pass, whom it stops, and how often it is wrong."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from convcraft.deploy.compress.gate import NO_WORSE, UNKNOWN, WORSE, judge_variant
from convcraft.errors import UserError

Labels = NDArray[np.int64]


def answers(
    draw: np.random.Generator, per_class: int, accuracy: float, flips: float | list[float], num_classes: int = 10
) -> tuple[Labels, Labels, Labels]:
    """Two networks of the same true accuracy in every class; of a share of images, just one of them is right."""
    targets = np.repeat(np.arange(num_classes), per_class)
    were = draw.random(len(targets)) < accuracy
    share = np.repeat(np.broadcast_to(flips, num_classes), per_class) / 2
    lost = were & (draw.random(len(targets)) < share / accuracy)
    gained = ~were & (draw.random(len(targets)) < share / (1 - accuracy))
    wrong = (targets + 1) % num_classes
    return np.where(were, targets, wrong), np.where((were & ~lost) | gained, targets, wrong), targets


def one_class_worse(
    draw: np.random.Generator, answered: tuple[Labels, Labels, Labels], points: float
) -> tuple[Labels, Labels, Labels]:
    """Class 3 loses so much, and as many images of the others are gained, so that the mean stays."""
    before, after, targets = answered
    after = after.copy()
    moved = round(points * (targets == 3).sum())
    lost = np.flatnonzero((targets == 3) & (after == targets))[:moved]
    gained = draw.permutation(np.flatnonzero((targets != 3) & (after != targets)))[:moved]
    assert len(lost) == len(gained) == moved
    after[lost] = 4
    after[gained] = targets[gained]
    return before, after, targets


@pytest.mark.parametrize("per_class", [2, 10, 100])
def test_the_same_answers_pass(per_class: int) -> None:
    before, _, targets = answers(np.random.default_rng(0), per_class, 0.9, 0.0)
    judged = judge_variant(before, before, targets)
    assert judged.passed
    assert judged.agreement == 1.0
    assert not judged.worse


@pytest.mark.parametrize("per_class", [30, 100, 1000])
def test_a_class_that_pays_for_the_mean_is_found(per_class: int) -> None:
    draw = np.random.default_rng(1)
    before, after, targets = one_class_worse(draw, answers(draw, per_class, 0.85, 0.02), 0.3)
    judged = judge_variant(before, after, targets)
    assert abs(judged.overall.difference) < 0.02
    assert not judged.passed
    assert [part.name for part in judged.worse] == ["class 3"]
    assert "class 3" in judged.sentences[0]
    assert judged.table[1][0] == "class 3"


def test_ten_images_are_enough_where_hardly_anything_else_moves() -> None:
    """Three of ten lost is no news by itself (p = 1/8), but it is where the other 90 images lose none."""
    targets = np.repeat(np.arange(10), 10)
    after = targets.copy()
    after[30:33] = 0
    judged = judge_variant(targets, after, targets, overall_margin=0.1)
    assert [part.name for part in judged.worse] == ["class 3"]
    assert judged.parts[0].notices_from is not None
    assert judged.parts[0].notices_from <= 4


def test_one_of_two_images_shows_nothing_and_that_is_said() -> None:
    targets = np.repeat(np.arange(40), 2)
    after = targets.copy()
    after[:1] = 39
    judged = judge_variant(targets, after, targets, overall_margin=0.1)
    assert judged.parts[0].difference == -0.5
    assert judged.passed
    assert not judged.proven
    assert all(part.verdict == UNKNOWN for part in judged.parts)
    assert judged.parts[1].notices_from is None
    assert any("no loss at all would be noticed" in sentence for sentence in judged.sentences)


def test_a_strict_gate_wants_proof() -> None:
    targets = np.repeat(np.arange(10), 20)
    assert judge_variant(targets, targets, targets).passed
    strict = judge_variant(targets, targets, targets, strict=True)
    assert not strict.passed
    assert "so few images" in strict.sentences[0]
    many = np.repeat(np.arange(10), 500)
    judged = judge_variant(many, many, many, strict=True)
    assert judged.passed
    assert judged.proven
    assert {part.verdict for part in judged.parts} == {NO_WORSE}


def test_the_mean_has_its_own_margin() -> None:
    """Every class loses 3 points: none stands out, together they are too many."""
    targets = np.repeat(np.arange(10), 100)
    after = targets.copy()
    for label in range(10):
        after[100 * label : 100 * label + 3] = (label + 1) % 10
    judged = judge_variant(targets, after, targets)
    assert not judged.worse
    assert judged.overall.verdict == WORSE
    assert not judged.passed
    assert judge_variant(targets, after, targets, overall_margin=0.04).passed


def test_groups_are_judged_beside_classes() -> None:
    draw = np.random.default_rng(2)
    targets = np.repeat(np.arange(10), 100)
    night = draw.random(1000) < 0.1
    after = np.where(night & (draw.random(1000) < 0.2), (targets + 1) % 10, targets)
    judged = judge_variant(
        targets, after, targets, {"night": night, "nobody": np.zeros(1000, bool)}, overall_margin=0.1
    )
    assert [part.name for part in judged.worse] == ["group night"]
    assert len(judged.parts) == 11
    assert [part.name for part in judged.groups] == ["group night"]


def test_a_group_without_images_is_named_and_proves_nothing() -> None:
    targets = np.repeat(np.arange(10), 500)
    nobody = {"nobody": np.zeros(5000, bool)}
    judged = judge_variant(targets, targets, targets, nobody)
    assert judged.passed
    assert not judged.proven
    assert judged.sentences[-1] == "Not judged, without an image: group nobody."
    assert not judge_variant(targets, targets, targets, nobody, strict=True).passed


def test_small_losses_within_the_margin_pass_however_sure_they_are() -> None:
    targets = np.repeat(np.arange(2), 5000)
    after = targets.copy()
    after[:100] = 1  # 2 points of class 0, beyond all doubt
    judged = judge_variant(targets, after, targets)
    assert judged.parts[0].p_value < 1e-6
    assert judged.passed
    assert not judge_variant(targets, after, targets, margin=0.01).passed


def test_agreement_may_be_asked_for() -> None:
    targets = np.repeat(np.arange(2), 50)
    before, after = np.full(100, 0), np.r_[np.full(97, 0), [1, 1, 1]]
    judged = judge_variant(before, after, targets, min_agreement=0.98)
    assert judged.agreement == pytest.approx(0.97)
    assert not judged.passed
    assert judge_variant(before, after, targets, min_agreement=0.96).passed


@pytest.mark.parametrize(
    ("per_class", "flips"),
    [
        (10, 0.02),
        (30, 0.04),
        (100, 0.04),
        (30, [0.005] * 8 + [0.08] * 2),
        (100, [0.005] * 8 + [0.08] * 2),
    ],
)
def test_false_alarms_stay_below_one_in_twenty(per_class: int, flips: float | list[float]) -> None:
    """Networks of equal true accuracy, also where some classes move far more than others; 200 pairs of a fixed seed."""
    draw = np.random.default_rng(3)
    accused = sum(bool(judge_variant(*answers(draw, per_class, 0.9, flips)).worse) for _ in range(200))
    assert accused <= 0.05 * 200


@pytest.mark.slow
def test_false_alarms_among_a_hundred_unlike_classes_stay_below_one_in_eight() -> None:
    draw, flips = np.random.default_rng(6), [0.01] * 80 + [0.1] * 20
    accused = sum(bool(judge_variant(*answers(draw, 30, 0.8, flips, num_classes=100)).worse) for _ in range(400))
    assert accused <= 400 / 8


@pytest.mark.parametrize(("per_class", "least"), [(10, 0.6), (30, 0.95), (100, 1.0)])
def test_thirty_points_are_found(per_class: int, least: float) -> None:
    draw = np.random.default_rng(4)
    found = 0
    for _ in range(60):
        crafted = one_class_worse(draw, answers(draw, per_class, 0.8, 0.02), 0.3)
        found += "class 3" in [part.name for part in judge_variant(*crafted).worse]
    assert found >= least * 60


def test_everything_is_plain_for_scripts() -> None:
    before, after, targets = answers(np.random.default_rng(5), 20, 0.9, 0.05)
    judged = judge_variant(before, after, targets, classes=list("abcdefghij"))
    again = json.loads(json.dumps(judged.to_dict()))
    assert again["passed"] is judged.passed
    assert again["parts"][0]["name"] == "class a"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (([0, 1], [0], [0, 1]), "targets"),
        (([], [], []), "no images"),
        (([0], [0], [0], None, 0.0), "margin"),
        (([0], [0], [0], {"night": [1]}), "mask"),
        (([0], [0], [0], {"night": [True, False]}), "mask"),
    ],
)
def test_what_cannot_be_judged_is_refused(arguments: tuple[object, ...], says: str) -> None:
    with pytest.raises(UserError, match=says):
        judge_variant(*arguments)  # type: ignore[arg-type]
