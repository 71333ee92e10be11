"""Shift between splits: planted shifts are found and named, equal splits are left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from convcraft.data.image_statistics import image_statistics
from convcraft.data.sample import Sample
from convcraft.doctor.shift import (
    StatisticDifference,
    TwoSampleTest,
    compare_statistics,
    prior_findings,
    shift_findings,
    two_sample_test,
)

RANDOM = np.random.default_rng(0)


def features(count: int, shift: float = 0.0, width: int = 20) -> np.ndarray:
    rows = RANDOM.standard_normal((count, width)).astype(np.float32)
    rows[:, :3] += shift
    return rows


def test_a_planted_shift_is_told() -> None:
    test = two_sample_test(features(200), features(100, 0.8))
    assert test.auc > 0.75
    assert test.interval[0] < test.auc < test.interval[1]
    assert test.interval[0] > 0.65
    assert test.p_value <= 0.005
    assert test.num_images == (200, 100)


def test_equal_splits_give_uniform_p_values() -> None:
    tests = [two_sample_test(features(60), features(40), seed=seed) for seed in range(30)]
    p_values = np.array([test.p_value for test in tests])
    assert 0.3 < p_values.mean() < 0.7
    assert (p_values <= 0.05).sum() <= 5
    assert abs(np.mean([test.auc for test in tests]) - 0.5) < 0.05


def test_copies_are_one_observation() -> None:
    """Ten copies of each image of one split make no shift; counted one by one they would look like one."""
    first, second = features(30), features(30)
    copies = np.repeat(first, 10, axis=0)
    groups = np.concatenate([np.repeat(np.arange(30), 10), np.arange(30, 60)])
    whole = two_sample_test(copies, second, groups=groups)
    single = two_sample_test(copies, second)
    assert whole.p_value > 0.05
    assert single.p_value < whole.p_value


def test_typical_images_are_those_that_are_shifted() -> None:
    second = features(100)
    second[:10, :5] += 6
    test = two_sample_test(features(300), second)
    assert np.isin(test.typical[:10], np.arange(10)).mean() >= 0.7
    assert sorted(test.typical.tolist()) == list(range(100))


def test_the_same_seed_gives_the_same_answer() -> None:
    first, second = features(50), features(50)
    one, two = (two_sample_test(first, second, seed=3) for _ in range(2))
    assert (one.auc, one.p_value, one.interval) == (two.auc, two.p_value, two.interval)


def picture(tmp_path: Path, name: str, pixels: np.ndarray) -> Sample:
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
    return Sample(tmp_path / name, 0, name)


def test_statistics_of_pictures(tmp_path: Path) -> None:
    checks = (np.indices((40, 60)).sum(axis=0) % 2 * 255)[..., None].repeat(3, axis=2)
    red = np.zeros((20, 20, 3)) + np.array([255, 0, 0])
    grey = np.full((30, 20), 51)
    (tmp_path / "bad.png").write_bytes(b"no picture")
    samples = [
        picture(tmp_path, "checks.png", checks),
        picture(tmp_path, "red.png", red),
        picture(tmp_path, "grey.png", grey),
        Sample(tmp_path / "bad.png", 0, "bad.png"),
    ]
    found = image_statistics(samples)
    np.testing.assert_allclose(found["brightness"], [0.5, 0.299, 0.2])
    np.testing.assert_allclose(found["contrast"], [0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found["sharpness"], [2, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found["saturation"], [0, 1, 0])
    assert found["width"].tolist() == [60, 20, 20]
    assert found["height"].tolist() == [40, 20, 30]


def test_differences_are_named_and_chance_is_not() -> None:
    first = {"brightness": RANDOM.normal(0.5, 0.1, 200), "contrast": RANDOM.normal(0.2, 0.05, 200)}
    second = {"brightness": RANDOM.normal(0.3, 0.1, 100), "contrast": RANDOM.normal(0.2, 0.05, 100)}
    (difference,) = compare_statistics(first, second)
    assert difference.name == "brightness"
    assert difference.difference == pytest.approx(-2, abs=0.4)
    assert difference.medians[0] == pytest.approx(0.5, abs=0.05)
    assert compare_statistics(first, first) == ()
    constant = {"width": np.full(50, 32.0)}
    assert compare_statistics(constant, constant) == ()
    assert compare_statistics(constant, {"width": np.full(50, 64.0)})[0].difference == np.inf


def test_findings_say_how_far_and_by_what() -> None:
    test = TwoSampleTest(0.9, (0.85, 0.95), 0.002, (100, 50), np.arange(50)[::-1])
    dark = StatisticDifference("brightness", (0.5, 0.25), -2.0, 1e-9)
    names = [f"{number}.png" for number in range(50)]
    (finding,) = shift_findings("test", test, 0.004, [dark], names, "a network")
    assert (finding.kind, finding.severity) == ("shift", "warning")
    assert "AUC of 0.90 (0.85 to 0.95" in finding.message
    assert "brightness 0.5 in train, 0.25 in test" in finding.message
    assert finding.files[0] == "49.png"
    assert shift_findings("test", test, 0.5, [], names, "a network") == ()
    (remark,) = shift_findings("test", test, 0.5, [dark], names, "a network")
    assert remark.severity == "info"


def test_other_class_shares_are_told() -> None:
    train = np.repeat([0, 1], [500, 500])
    (finding,) = prior_findings(train, np.repeat([0, 1], [160, 40]), ["cat", "dog"])
    assert "cat: 50.0% of train, 80.0% of val" in finding.message
    assert prior_findings(train, np.repeat([0, 1], [52, 48]), ["cat", "dog"]) == ()
    assert prior_findings(train, np.array([], np.int64), ["cat", "dog"]) == ()
    assert prior_findings(train * 0, np.zeros(5, np.int64), ["cat", "dog"]) == ()
