"""Bins with intervals by hand; the interval of the ECE holds a planted one; chance alone gives some."""

from __future__ import annotations

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.reliability_diagram import reliability_diagram
from convcraft.statistics import wilson_interval


def test_reliability_by_hand() -> None:
    confidence = np.array([0.55, 0.55, 0.95, 0.95], np.float32)
    found = reliability_diagram(confidence, np.array([True, False, True, True]), num_bins=10, num_resamples=50)
    assert found.calibration.expected_error == pytest.approx(0.05, abs=1e-6)
    assert found.accuracy_intervals[5] == wilson_interval(1, 2)
    assert found.accuracy_intervals[9] == wilson_interval(2, 2)
    assert found.accuracy_intervals[0] == (0.0, 1.0)
    saved = json.loads(json.dumps(found.to_dict()))
    assert len(saved["edges"]) == 11
    assert len(saved["accuracy_intervals"]) == 10


def test_interval_of_the_calibration_error_holds_a_planted_one() -> None:
    """Right 10 points less often than said, in every bin: the true ECE is 0.1."""
    held = []
    for seed in range(120):
        random = np.random.default_rng(seed)
        confidence = random.choice(np.array([0.57, 0.77, 0.97], np.float32), 300)
        found = reliability_diagram(confidence, random.random(300) < confidence - 0.1, num_resamples=300)
        held.append(found.error_interval[0] <= 0.1 <= found.error_interval[1])
    assert 0.88 <= np.mean(held) <= 1.0


def test_the_interval_lies_around_the_error_and_not_above_it() -> None:
    """Resampling adds noise: percentile intervals of a nearly calibrated network reach to twice its error."""
    ratios = []
    for seed in range(12):
        random = np.random.default_rng(seed)
        confidence = random.uniform(0.4, 1.0, 300).astype(np.float32)
        found = reliability_diagram(confidence, random.random(300) < confidence - 0.01, num_resamples=300)
        ratios.append(found.error_interval[1] / found.calibration.expected_error)
    assert 1.0 < np.mean(ratios) < 1.6


def test_chance_alone_gives_a_calibrated_network_some_error() -> None:
    random = np.random.default_rng(0)
    above = []
    for _ in range(100):
        confidence = random.uniform(0.4, 1.0, 200).astype(np.float32)
        found = reliability_diagram(confidence, random.random(200) < confidence, num_resamples=200)
        above.append(found.calibration.expected_error > found.chance_error[1])
    assert np.mean(above) <= 0.12
    assert 0.03 < found.chance_error[0] < found.chance_error[1] < 0.15


@pytest.mark.parametrize(
    ("confidence", "correct"),
    [(np.zeros(0, np.float32), np.zeros(0, bool)), (np.ones(2, np.float32), np.ones(3, bool))],
)
def test_reliability_refuses_what_does_not_fit(confidence: NDArray[np.float32], correct: NDArray[np.bool_]) -> None:
    with pytest.raises(UserError, match="confidence"):
        reliability_diagram(confidence, correct)
