"""The learning rate of every step equals the formula."""

from __future__ import annotations

import math

import pytest

from convcraft.config import ScheduleConfig
from convcraft.training.schedules import Plateau, factor_at

TOTAL, PER_EPOCH = 100, 10


def rates(**settings: object) -> list[float]:
    config = ScheduleConfig(**settings)  # type: ignore[arg-type]
    return [factor_at(config, step, TOTAL, PER_EPOCH) for step in range(TOTAL)]


def test_constant_stays() -> None:
    assert rates(name="constant") == [1.0] * TOTAL


def test_step_falls_at_its_epochs() -> None:
    values = rates(name="step", step_epochs=(3.0, 6.0), step_factor=0.1)
    assert values[:30] == [1.0] * 30
    assert values[30:60] == pytest.approx([0.1] * 30)
    assert values[60:] == pytest.approx([0.01] * 40)


def test_cosine_follows_the_formula_after_its_warm_up() -> None:
    values = rates(name="cosine", warmup_epochs=2.0, final_fraction=0.1)
    assert values[:20] == pytest.approx([(step + 1) / 21 for step in range(20)])
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * (step - 20) / 80)) / 2 for step in range(20, 100)]
    assert values[20:] == pytest.approx(expected)


def test_one_cycle_rises_to_its_peak_and_falls_to_its_end() -> None:
    values = rates(name="one_cycle", peak_fraction=0.3, start_fraction=0.1, final_fraction=0.0)
    assert values[0] == pytest.approx(0.1)
    assert values[30] == pytest.approx(1.0)
    assert values[:31] == sorted(values[:31])
    assert values[30:] == sorted(values[30:], reverse=True)
    assert values[-1] < 0.001


def test_plateau_lowers_after_its_patience() -> None:
    config, plateau = ScheduleConfig(name="plateau", plateau_patience_epochs=2, step_factor=0.5), Plateau()
    factors = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.8, 0.8, 0.8, 0.8):
        plateau.update(config, loss)
        factors.append(plateau.factor)
    assert factors == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25]
