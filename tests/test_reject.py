"""The reason for each rejection by hand, exact JSON, and accuracy of what is kept over many draws."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convcraft.errors import UserError
from convcraft.evaluation.conformal import Conformal, fit_conformal
from convcraft.evaluation.reject import RejectRule, fit_min_confidence
from convcraft.evaluation.unknown import UnknownThreshold

ROWS = np.array([[0.9, 0.05, 0.05], [0.5, 0.45, 0.05], [0.4, 0.3, 0.3], [0.9, 0.05, 0.05]], np.float32)
THRESHOLD = UnknownThreshold("energy", 1.5, 0.05, 100)


def test_reasons_by_hand() -> None:
    rule = RejectRule(min_confidence=0.45, min_margin=0.1, unknown=THRESHOLD)
    assert rule.reasons(ROWS, [0.0, 0.0, 0.0, 2.0]) == [None, "ambiguous", "low confidence", "unknown"]


def test_the_strangest_reason_comes_first() -> None:
    rule = RejectRule(min_confidence=0.99, min_margin=0.99, unknown=THRESHOLD)
    assert rule.reasons(ROWS[:2], [1.6, 1.5]) == ["unknown", "low confidence"]  # 1.5 is not above 1.5


def test_a_rule_without_parts_rejects_nothing() -> None:
    assert RejectRule().reasons(ROWS) == [None] * 4
    assert RejectRule().reasons(np.ones((2, 1))) == [None, None]
    assert RejectRule(min_margin=0.5).reasons(np.ones((1, 1))) == [None]
    assert RejectRule().reasons(np.zeros((0, 3))) == []


def test_conformal_sets_of_several_are_ambiguous_and_empty_ones_unsure() -> None:
    several = RejectRule(conformal=Conformal("lac", 0.9, (0.6,), (50,), 3))  # classes of at least 0.4
    assert several.reasons(ROWS) == [None, "ambiguous", None, None]
    strict = RejectRule(conformal=Conformal("lac", 0.5, (0.2,), (50,), 3))  # of at least 0.8
    assert strict.reasons(ROWS) == [None, "low confidence", "low confidence", None]
    everything = RejectRule(conformal=Conformal("lac", 0.9, (math.inf,), (5,), 3))
    assert everything.reasons(ROWS) == ["ambiguous"] * 4


def test_a_confidence_equal_to_the_least_is_enough() -> None:
    assert RejectRule(min_confidence=float(np.float32(0.9))).reasons(ROWS[:1]) == [None]


def test_an_infinite_threshold_calls_nothing_unknown() -> None:
    rule = RejectRule(unknown=UnknownThreshold("energy", math.inf, 0.05, 3))
    assert rule.reasons(ROWS, [1e300] * 4) == [None] * 4


@settings(max_examples=60, deadline=None)
@given(
    numbers=st.tuples(*[st.floats(0, 1)] * 2),
    value=st.one_of(st.just(math.inf), st.floats(-1e300, 1e300)),
    seed=st.integers(0, 999),
    method=st.sampled_from(["lac", "aps", "raps"]),
    per_class=st.booleans(),
)
def test_json_brings_back_the_very_same_rule(
    numbers: tuple[float, float], value: float, seed: int, method: str, per_class: bool
) -> None:
    random = np.random.default_rng(seed)
    rows = random.dirichlet(np.ones(3), 40).astype(np.float32)
    conformal = fit_conformal(
        rows, random.integers(0, 3, 40), 0.8, method=method, class_conditional=per_class, randomised=True
    )
    rule = RejectRule(*numbers, conformal, UnknownThreshold("energy", value, 0.05, 40))
    again = RejectRule.from_dict(json.loads(json.dumps(rule.to_dict(), allow_nan=False)))
    assert again == rule
    scores = random.normal(size=40)
    assert again.reasons(rows, scores) == rule.reasons(rows, scores)


def test_other_versions_and_damaged_files_are_refused() -> None:
    saved = RejectRule(0.5, 0.1, unknown=THRESHOLD).to_dict()
    assert saved["version"] == 1
    broken = [
        ({**saved, "version": 2}, "version 2"),
        ({}, "version None"),
        ({key: value for key, value in saved.items() if key != "unknown"}, "reject entries"),
        ({**saved, "more": 1}, "reject entries"),
        ({**saved, "min_margin": "0.1"}, "min_margin '0.1'"),
        ({**saved, "min_confidence": 1.5}, "min_confidence 1.5"),
        ({**saved, "min_confidence": float("nan")}, "min_confidence nan"),
        ({**saved, "unknown": {"score": "energy"}}, "threshold entries"),
        ({**saved, "conformal": {"method": "lac"}}, "conformal entries"),
    ]
    for entries, message in broken:
        with pytest.raises(UserError, match=message):
            RejectRule.from_dict(entries)


def test_scores_are_given_exactly_where_the_rule_has_a_threshold() -> None:
    with pytest.raises(UserError, match="expected scores of energy"):
        RejectRule(unknown=THRESHOLD).reasons(ROWS)
    with pytest.raises(UserError, match="without a threshold"):
        RejectRule().reasons(ROWS, [0.0] * 4)
    for scores in ([0.0] * 3, [0.0, 0.0, 0.0, math.nan]):
        with pytest.raises(UserError, match="scores"):
            RejectRule(unknown=THRESHOLD).reasons(ROWS, scores)
    with pytest.raises(UserError, match="do not sum to 1"):
        RejectRule().reasons([[math.nan, 0.5]])


def test_the_kept_are_as_often_right_as_was_asked_for() -> None:
    """Right with just the confidence: above c the true accuracy is (1 + c) / 2. At most 5 % of draws may fall short."""
    random, shares, short = np.random.default_rng(0), [], 0
    for _ in range(200):
        confidence = random.random(4000).astype(np.float32)
        found = fit_min_confidence(confidence, random.random(4000) < confidence, 0.8)
        short += (1 + found) / 2 < 0.8
        shares.append(1 - found)
    assert short <= 10
    assert 0.2 < np.mean(shares) <= 0.4  # 0.4 could be kept by one who knew


def test_of_20_thresholds_none_passes_by_luck() -> None:
    """Right 8 times of 10 whatever the confidence: asked for 0.8, every threshold that is found was luck."""
    random, lucky = np.random.default_rng(0), 0
    for _ in range(300):
        confidence, correct = random.random(1000).astype(np.float32), random.random(1000) < 0.8
        try:
            fit_min_confidence(confidence, correct, 0.8)
            lucky += 1
        except UserError:
            continue
    assert lucky <= 0.05 * 300 + 8  # two standard errors


def test_all_are_kept_where_all_are_right_enough() -> None:
    confidence = np.linspace(0.5, 1, 1000).astype(np.float32)
    assert fit_min_confidence(confidence, np.ones(1000, bool), 0.95) == 0.5


def test_an_accuracy_out_of_reach_is_named() -> None:
    with pytest.raises(UserError, match="prove at most 0"):
        fit_min_confidence(np.full(10, 0.9, np.float32), np.ones(10, bool), 0.99)
    with pytest.raises(UserError, match=r"confidence \[0\]"):
        fit_min_confidence(np.zeros(0, np.float32), np.zeros(0, bool), 0.9)


def test_applied_without_torch_scikit_learn_or_scipy() -> None:
    imports = "import convcraft.evaluation.reject, convcraft.evaluation.unknown"
    check = f"import sys; {imports}; print([m for m in ('torch', 'sklearn', 'scipy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
