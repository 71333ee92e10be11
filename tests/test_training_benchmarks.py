"""What the training benchmarks conclude from their measurements."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
residual = pytest.importorskip("residual")
train_speed = pytest.importorskip("train_speed")


def test_speed_counts_against_the_better_textbook_and_the_best_keras() -> None:
    rates = {
        "convcraft": [300.0, 330.0, 360.0],
        "textbook, 0 workers": [90.0, 100.0, 110.0],
        "textbook, 2 workers": [100.0, 110.0, 120.0],
        "keras jax": [50.0, 60.0, 70.0],
        "keras torch": [150.0, 165.0, 170.0],
    }
    accuracy = {"convcraft": [0.990, 0.991], "textbook": [0.990, 0.992]}
    found = train_speed.judge(rates, accuracy)
    assert found["ratio_to_textbook"] == pytest.approx(3.0)
    assert found["ratio_to_best_keras"] == pytest.approx(2.0)
    assert found["accuracy_gap"] == pytest.approx(-0.0005)
    assert found["met"] is True
    assert train_speed.judge(rates, {"convcraft": [0.98], "textbook": [0.99]})["met"] is False


def test_a_claim_that_was_measured_in_part_is_neither_met_nor_missed() -> None:
    rates = {"convcraft": [900.0], "textbook, 0 workers": [100.0]}
    assert train_speed.judge(rates, {})["met"] is None


def test_curves_are_means_of_each_epoch() -> None:
    records = [
        {"event": "train", "epoch": 1, "loss": 3.0},
        {"event": "train", "epoch": 1, "loss": 1.0},
        {"event": "val", "epoch": 1, "accuracy": 0.4},
        {"event": "train", "epoch": 2, "loss": 0.5},
        {"event": "val", "epoch": 2, "accuracy": 0.6},
    ]
    assert residual.curves(records) == {"train_loss": [2.0, 0.5], "val_accuracy": [0.4, 0.6]}


def test_residual_must_be_ahead_in_loss_and_accuracy_at_every_seed() -> None:
    good, bad = (
        {"train_loss": [2.0, 1.0], "val_accuracy": [0.3, 0.6]},
        {"train_loss": [2.1, 1.5], "val_accuracy": [0.3, 0.4]},
    )
    runs = {"resnet34": [good, good], "plain34": [bad, good], "plain18": [good, bad]}
    found = residual.judge(runs)
    assert found["resnet34_ahead_of_plain34"] == [True, False]
    assert found["plain34_behind_plain18"] == [True, False]
    assert found["met"] is False
