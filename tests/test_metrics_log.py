"""The run's log: its bytes, the cut on resume, and which steps get a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from convcraft.errors import UserError
from convcraft.training.metrics_log import MetricsLog, log_is_due, read_metrics


def record(step: int) -> dict[str, object]:
    return {"event": "train", "epoch": 1, "step": step, "loss": 1 / step}


def test_a_resumed_log_is_cut_to_the_checkpoint_and_goes_on(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.write(record(1))
    length = log.flush()
    log.write(record(2))
    log.close()
    log = MetricsLog(tmp_path, length)
    log.write(record(3))
    log.close()
    assert read_metrics(tmp_path) == [record(1), record(3)]
    assert (tmp_path / "metrics.jsonl").read_bytes().count(b"\n") == 2


def test_lost_lines_are_noticed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lost lines"):
        MetricsLog(tmp_path, 10)


def due(every: int, schedule: str, last: int) -> list[int]:
    return [step for step in range(1, last + 1) if log_is_due(step, every, schedule)]


def test_even_lines() -> None:
    assert due(10, "even", 45) == [10, 20, 30, 40]
    assert due(1, "even", 3) == [1, 2, 3]


def test_gradual_lines_are_dense_at_first() -> None:
    first = [*range(1, 10), *range(10, 100, 10)]
    assert due(100, "gradual", 350) == [*first, 100, 200, 300]
    assert due(10, "gradual", 130) == [*first, 100, 110, 120, 130]
    assert due(1000, "gradual", 2500) == [*first, *range(100, 1000, 100), 1000, 2000]
    assert due(50, "gradual", 200) == [*first, 100, 150, 200]
    assert due(4, "gradual", 20) == [*range(1, 10), 12, 16, 20]
    assert due(1, "gradual", 30) == list(range(1, 31))
