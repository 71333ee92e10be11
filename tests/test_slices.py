"""Slices: planted weaknesses are found, chance is not taken for one, and odd columns do no harm."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import fisher_exact

from convcraft.data.image_statistics import image_facts
from convcraft.data.sample import Sample
from convcraft.errors import UserError
from convcraft.evaluation.gate import Gate
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.slice_columns import class_group_column, slice_column
from convcraft.evaluation.slices import slice_report
from convcraft.evaluation.two_proportions import fisher_mid_p, newcombe_interval
from convcraft.statistics import wilson_interval

CLASSES = ("cat", "dog", "car")


def judged(correct: NDArray[np.bool_], targets: NDArray[np.int64] | None = None) -> Predictions:
    """Predictions that are right where `correct` says so."""
    truth = np.zeros(len(correct), np.int64) if targets is None else targets
    labels = np.where(correct, truth, (truth + 1) % len(CLASSES))
    table = np.eye(len(CLASSES), dtype=np.float32)[labels]
    return Predictions(CLASSES, table, truth, tuple(map(str, range(len(correct)))))


def test_the_interval_is_newcombes_and_the_test_is_near_fishers() -> None:
    """Newcombe 1998, table II: 56/70 against 48/80 gives (0.0524, 0.3339), 9/10 against 3/10 (0.1705, 0.8090)."""
    assert newcombe_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert newcombe_interval(9, 10, 3, 10) == pytest.approx((0.1705, 0.8090), abs=5e-5)
    assert newcombe_interval(0, 0, 3, 10)[0] < 0 < newcombe_interval(0, 0, 3, 10)[1]
    for counts in ((30, 50, 200, 250), (5, 40, 3, 60), (0, 20, 0, 30), (20, 20, 30, 30)):
        here, images, elsewhere, others = counts
        exact = fisher_exact([[here, images - here], [elsewhere, others - elsewhere]]).pvalue
        assert fisher_mid_p(*counts) <= exact + 1e-9 or exact < 0.05
        assert fisher_mid_p(*counts) == pytest.approx(fisher_mid_p(elsewhere, others, here, images))
    assert fisher_mid_p(0, 20, 0, 30) == 1.0


def test_slices_carry_their_counts_and_intervals() -> None:
    correct = np.array([True] * 60 + [False] * 20 + [True] * 40)
    report = slice_report(judged(correct), {"camera": ["A"] * 80 + ["B"] * 40})
    first, second = report.slices
    assert (first.name, first.num_images, first.num_correct) == ("camera = A", 80, 60)
    assert first.interval == wilson_interval(60, 80)
    assert first.difference == pytest.approx(0.75 - 1)
    assert first.difference_interval == pytest.approx(newcombe_interval(60, 80, 40, 40))
    assert first.p_value == second.p_value == pytest.approx(fisher_mid_p(60, 80, 40, 40))  # one test, not two
    assert [entry.name for entry in report.significant] == ["camera = A", "camera = B"]


def test_a_planted_slice_and_a_planted_pair_are_found() -> None:
    random = np.random.default_rng(0)
    columns = {
        "camera": random.choice(["A", "B", "C"], 3000),
        "brightness": random.random(3000),
        "weather": random.choice(["sun", "rain"], 3000),
        "noise": random.normal(size=3000),
    }
    dark = columns["brightness"] < 0.15
    single = slice_report(judged(random.random(3000) < np.where(dark, 0.6, 0.9)), columns)
    assert single.worst is not None
    assert single.worst.is_shown
    assert single.worst.result.conditions[0][0] == "brightness"
    assert single.significant[0].conditions[0][0] == "brightness"

    both = (columns["camera"] == "B") & (columns["weather"] == "rain")
    pair = slice_report(judged(random.random(3000) < np.where(both, 0.7, 0.92)), columns)
    assert pair.worst is not None
    assert pair.worst.is_shown
    assert pair.worst.result.conditions == (("camera", "B"), ("weather", "rain"))
    assert pair.worst.shortfall_bound < pair.worst.shortfall
    assert "worst by lower bound" in pair.worst.sentence.lower()
    assert "camera = B and weather = rain" in pair.worst.sentence


def test_random_slices_raise_an_alarm_in_about_one_of_twenty_cases() -> None:
    """200 draws; 5 % is 10 of them, and 20 or more has a probability of 0.3 %. Slices that overlap make it fewer."""
    alarms, shown = 0, 0
    for seed in range(200):
        random = np.random.default_rng(seed)
        columns = {"a": random.choice(["x", "y", "z"], 600), "b": random.normal(size=600)}
        report = slice_report(judged(random.random(600) < 0.8), columns)
        alarms += bool(report.significant)
        assert report.worst is not None
        shown += report.worst.is_shown
    assert 2 <= alarms <= 19
    assert shown <= 19


def test_numbers_are_binned_by_quantiles_and_equal_numbers_stay_together() -> None:
    column = slice_column("size", list(range(100)))
    assert column.values == ("0 to 19", "20 to 39", "40 to 59", "60 to 79", "80 to 99")
    assert np.bincount(column.codes).tolist() == [20] * 5
    tied = slice_column("size", [0] * 90 + [1] * 5 + [2] * 25)
    assert tied.values == ("0", "1 to 2")  # five ones are too few for a bin
    assert np.bincount(tied.codes).tolist() == [90, 30]
    assert slice_column("size", [3.5] * 50).values == ("3.5",)
    assert slice_column("size", [1, 2, 3]).values == ("1 to 3",)
    close = slice_column("size", np.repeat([1.00001, 1.00002], 30))
    assert close.values == ("1.00001", "1.00002")
    assert slice_column("size", [-np.inf] * 30 + [1.0] * 30 + [np.inf] * 30).values == ("-inf", "1", "inf")


@pytest.mark.parametrize("seed", range(20))
def test_bins_keep_order_and_size_whatever_the_numbers(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.choice([random.normal(size=300).round(1), random.geometric(0.3, 300), random.integers(0, 3, 300)])
    column = slice_column("x", values)
    assert 1 <= len(column.values) <= 5
    assert np.bincount(column.codes).min() >= 20
    for code in range(len(column.values) - 1):
        assert values[column.codes == code].max() < values[column.codes == code + 1].min()


def test_categories_missing_values_and_rare_ones() -> None:
    column = slice_column("camera", ["A"] * 30 + ["B"] * 25 + [f"rare {n}" for n in range(9)] + [None] * 3)
    assert column.values == ("A", "B", "(other: 9 values)", "(missing)")
    assert np.bincount(column.codes).tolist() == [30, 25, 9, 3]
    assert slice_column("flash", [True] * 30 + [False] * 30).values == ("False", "True")
    assert slice_column("mixed", [1, "1", 2.5, None] * 30).values == ("1", "2.5", "(missing)")
    assert slice_column("empty", [None] * 5).values == ("(missing)",)
    assert slice_column("numbers", [float("nan")] * 4 + list(range(40))).values[-1] == "(missing)"


def test_class_groups_go_by_the_true_class() -> None:
    targets = np.array([0, 1, 2, 2, 0])
    column = class_group_column({"animal": ["cat", "dog"]}, CLASSES, targets)
    assert [column.values[code] for code in column.codes] == ["animal", "animal", "(no group)", "(no group)", "animal"]
    with pytest.raises(UserError, match="bird"):
        class_group_column({"animal": ["bird"]}, CLASSES, targets)
    with pytest.raises(UserError, match="one group per class"):
        class_group_column({"animal": ["cat"], "pet": ["cat"]}, CLASSES, targets)
    report = slice_report(
        judged(np.arange(90) % 3 != 2, np.arange(90) % 3), {}, {"animal": ["cat", "dog"], "machine": ["car"]}
    )
    assert {entry.name: entry.accuracy for entry in report.significant} == {
        "class group = machine": 0.0,
        "class group = animal": 1.0,
    }


@pytest.mark.parametrize(
    ("num_images", "columns"),
    [
        (1, {"a": ["x"]}),
        (5, {"a": [1, 2, 3, 4, 5], "b": list("vwxyz")}),
        (50, {"a": ["x"] * 50}),
        (50, {}),
        (50, {"a": [None] * 50}),
    ],
)
def test_too_few_images_are_shown_but_not_judged(num_images: int, columns: dict[str, list[object]]) -> None:
    report = slice_report(judged(np.arange(num_images) % 2 == 0), columns)
    assert all(not entry.is_judged for entry in report.slices)
    assert sum(entry.num_images for entry in report.slices) == num_images * len(columns)
    assert report.worst is None
    assert report.significant == ()
    json.dumps(report.to_dict(), allow_nan=False)
    result = Gate(min_accuracy=0.1).judge(report)
    assert result.exit_code == 1
    assert "nothing can be judged" in result.sentences[0]


@pytest.mark.parametrize("right", [True, False])
def test_all_right_or_all_wrong_has_no_worst_slice(right: bool) -> None:
    report = slice_report(judged(np.full(100, right)), {"a": ["x", "y"] * 50})
    assert report.worst is not None
    assert not report.worst.is_shown
    assert report.worst.sentence.startswith("No slice is worse")
    assert [entry.p_value for entry in report.slices] == [1.0, 1.0]


def test_columns_that_do_not_fit_are_refused() -> None:
    with pytest.raises(UserError, match="3 values"):
        slice_report(judged(np.ones(4, bool)), {"a": [1, 2, 3]})
    unlabelled = Predictions(("a", "b"), np.array([[0.5, 0.5]], np.float32), None, ("x",))
    with pytest.raises(UserError, match="without labels"):
        slice_report(unlabelled, {})


def test_the_gate_judges_the_bound_that_was_chosen() -> None:
    """Slice A: 85 of 100 right, Wilson (0.767, 0.907); B: 195 of 200."""
    correct = np.array([True] * 85 + [False] * 15 + [True] * 195 + [False] * 5)
    report = slice_report(judged(correct), {"camera": ["A"] * 100 + ["B"] * 200})
    passes = {
        (threshold, bound): Gate(min_accuracy=threshold, judged_on=bound).judge(report).passed
        for threshold in (0.75, 0.8, 0.88, 0.95)
        for bound in ("pessimistic", "estimate", "optimistic")
    }
    assert [passes[0.75, bound] for bound in ("pessimistic", "estimate", "optimistic")] == [True, True, True]
    assert [passes[0.8, bound] for bound in ("pessimistic", "estimate", "optimistic")] == [False, True, True]
    assert [passes[0.88, bound] for bound in ("pessimistic", "estimate", "optimistic")] == [False, False, True]
    assert [passes[0.95, bound] for bound in ("pessimistic", "estimate", "optimistic")] == [False, False, False]
    gaps = [Gate(max_gap=0.15, judged_on=bound).judge(report).passed for bound in ("pessimistic", "estimate")]
    assert gaps == [False, True]
    assert not Gate(max_gap=0.03, judged_on="optimistic").judge(report).passed
    failed = Gate(min_accuracy=0.9, max_gap=0.5).judge(report)
    assert (failed.passed, failed.exit_code) == (False, 1)
    assert failed.sentences[0] == "Failed: accuracy at least 90.0 %, as measured: 1 of 2 slices do not meet it."
    assert failed.sentences[1] == "camera = A: 85.0 % (85 of 100 right)."
    assert failed.sentences[2].startswith("Passed: gap to the rest at most 50.0 %")
    json.dumps(failed.to_dict())


@pytest.mark.parametrize("settings", [{}, {"min_accuracy": 80}, {"max_gap": -0.1}, {"max_gap": 0.1, "judged_on": "x"}])
def test_gates_without_a_sensible_threshold_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(UserError):
        Gate(**settings)  # type: ignore[arg-type]


def test_facts_of_pictures(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sharp = random.integers(0, 256, (40, 60, 3), dtype=np.uint8)
    blurred = np.asarray(Image.fromarray(sharp).resize((6, 4), Image.Resampling.BOX).resize((60, 40)))
    red = np.zeros((20, 20, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    images = (sharp, blurred, red, np.full((2, 2), 51, np.uint8))
    samples = [Sample(image, 0, str(number)) for number, image in enumerate(images)]
    facts = image_facts([*samples, Sample(tmp_path / "bad.png", 0, "bad.png")])
    assert facts["width"][:4].tolist() == [60, 60, 20, 2]
    assert facts["height"][:4].tolist() == [40, 40, 20, 2]
    assert facts["blur"][0] > 10 * facts["blur"][1] > 0
    np.testing.assert_allclose(facts["brightness"][2:4], [0.299, 0.2])
    # red alone: R - G = 1, (R + G) / 2 - B = 0.5 everywhere, no spread
    np.testing.assert_allclose(facts["colourfulness"][2:4], [0.3 * np.sqrt(1.25), 0], atol=1e-9)
    assert all(np.isnan(values[4]) for values in facts.values())
    checks = np.indices((6, 6)).sum(axis=0) % 2 * 255  # each inner Laplacian is +4 or -4
    assert image_facts([Sample(checks.astype(np.uint8), 0, "checks")])["blur"] == pytest.approx([16.0])
    column = slice_column("blur", np.tile(facts["blur"], 30))
    assert column.values[-1] == "(missing)"
