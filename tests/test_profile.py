"""The stopwatch books all time, changes nothing, and costs nothing when it is off."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_run import BASE, QUIET, files_of, stop_after, trainer_for

from convcraft.training.checkpoint import CHECKPOINTS, load_newest
from convcraft.training.loop import fit
from convcraft.training.profile import HINTS, PARTS, NoStopwatch, Profile, Stopwatch
from convcraft.training.stops import Interrupted

CONFIG = BASE.changed(training={"ema_decay": 0.9, "gradient_clip_norm": 1.0})


def clock_of(times: list[float]) -> Iterator[float]:
    yield from times


def test_laps_are_booked_and_add_up() -> None:
    times = clock_of([0.0, 1.0, 3.0, 6.0, 6.5])
    watch = Stopwatch(seconds_before={"data": 10.0}, clock=lambda: next(times))
    watch.start()
    for part in ("data", "forward", "data"):
        watch.lap(part)
    seconds = watch.seconds()
    assert seconds["data"] == 10.0 + 2.0 + 0.5
    assert seconds["forward"] == 3.0
    assert sum(seconds.values()) == 10.0 + 5.5
    assert list(seconds) == list(PARTS)


def test_a_part_without_a_name_is_refused() -> None:
    with pytest.raises(KeyError):
        Stopwatch().lap("dreaming")


@pytest.mark.parametrize("seconds", [[1.0, 1.0, 1.0], [1e-9, 2.0, 5.0], [1 / 3, 1 / 7, 1 / 11], [0.0, 0.0, 4.0]])
def test_percentages_add_to_100(seconds: list[float]) -> None:
    profile = Profile(dict(zip(("data", "forward", "other"), seconds, strict=True)))
    percent = profile.percentages()
    assert round(sum(percent.values()), 6) == 100
    for part, value in percent.items():
        assert value == pytest.approx(100 * profile.seconds[part] / sum(seconds), abs=0.1)


def test_nothing_measured_is_zero_percent() -> None:
    assert set(Profile(dict.fromkeys(PARTS, 0.0)).percentages().values()) == {0.0}


def test_the_hint_names_the_largest_part() -> None:
    profile = Profile({"data": 3.0, "forward": 1.0})
    assert profile.largest == "data"
    assert profile.hint.startswith("data takes most, 75%")
    assert "num_workers" in profile.hint
    assert HINTS.keys() == PARTS.keys()


def test_a_profiled_run_is_the_same_run_and_all_its_time_is_booked(tmp_path: Path) -> None:
    fit(trainer_for(tmp_path / "plain", CONFIG), QUIET)
    trainer = trainer_for(tmp_path / "profiled", CONFIG, profile=True)
    started = time.perf_counter()
    fit(trainer, QUIET)
    wall = time.perf_counter() - started
    assert files_of(tmp_path / "plain") == files_of(tmp_path / "profiled")
    seconds = trainer.watch.seconds()
    booked = sum(seconds.values())
    assert 0.9 * wall < booked <= wall  # the rest is signals, the bar's start and closing the log
    assert all(seconds[part] > 0 for part in PARTS)
    assert seconds["other"] < 0.5 * booked


def test_time_before_a_resume_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_after(monkeypatch, 4), pytest.raises(Interrupted):
        fit(trainer_for(tmp_path, CONFIG, profile=True), QUIET)
    before = load_newest(tmp_path / CHECKPOINTS)[0].state["profile"]
    assert before["forward"] > 0
    resumed = trainer_for(tmp_path, CONFIG, profile=True, resume=True)
    assert resumed.watch.seconds() == before
    fit(resumed, QUIET)
    assert all(seconds >= before[part] for part, seconds in resumed.watch.seconds().items())


def test_a_resume_may_begin_or_end_profiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with stop_after(monkeypatch, 4), pytest.raises(Interrupted):
        fit(trainer_for(tmp_path, CONFIG), QUIET)
    with stop_after(monkeypatch, 2), pytest.raises(Interrupted):
        fit(trainer_for(tmp_path, CONFIG, profile=True, resume=True), QUIET)
    trainer = trainer_for(tmp_path, CONFIG, resume=True)
    fit(trainer, QUIET)
    assert trainer.watch.seconds() == {}


def test_the_idle_stopwatch_is_free() -> None:
    """A step makes about ten calls; a quick step of a small network takes 5 ms, of which 1 % is 50 microseconds."""
    watch, calls = NoStopwatch(), 100_000
    started = time.process_time()
    for _ in range(calls):
        watch.lap("data")
    assert (time.process_time() - started) / calls * 10 < 50e-6
