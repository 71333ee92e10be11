"""How threads and pictures at once are chosen: within their time, after the probes, and only where none was given."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from exported import made_of, small_network, source_of
from numpy.typing import NDArray

from convcraft.data.preprocess import Preprocess
from convcraft.deploy import predictor as predictor_module
from convcraft.deploy import runtime_choice
from convcraft.deploy.archive import write_zip
from convcraft.deploy.bundle import Bundle, open_bundle
from convcraft.deploy.formats.form import Runtime, Session
from convcraft.deploy.predictor import BATCH_SIZE, Predictor
from convcraft.deploy.remembered import remember
from convcraft.deploy.runtime_choice import CHOICE, RuntimeChoice, choose_runtime, remembered_choice
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs
from convcraft.workflows.predict import How, open_network

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

GREY = Preprocess(height=28, width=28, channels=1, resize="pad", mean=(0.13,), std=(0.31,))
MEASURED = RuntimeChoice(threads=1, batch_size=4, images_per_second=100.0)
Trial = tuple[int, int]  # threads, pictures at once


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("made") / "bundle.zip"
    classes = tuple(f"class {label}" for label in range(7))
    write_zip(place, made_of(source_of(small_network("lenet5", 7, GREY), GREY, classes)).files)
    return place


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bundle(path: Path) -> Bundle:
    return open_bundle(path)


class Clock:
    """Time that passes only where a session says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def read(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(runtime_choice, "time", SimpleNamespace(perf_counter=clock.read, monotonic=clock.read))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    return clock


def slow(clock: Clock, tried: list[Trial], seconds: float, starting: float = 0.0) -> Callable[[Runtime], Session]:
    """Sessions that take so long for a picture on four threads, and as much longer on fewer."""

    def start(runtime: Runtime) -> Session:
        threads = runtime.threads or 4
        clock.now += starting

        def session(inputs: NDArray[np.generic]) -> Outputs:
            if (threads, len(inputs)) not in tried:
                tried.append((threads, len(inputs)))
            clock.now += seconds * len(inputs) * 4 / threads
            return Outputs(np.zeros((len(inputs), 7), np.float32), None)

        return session

    return start


def test_a_quick_network_is_tried_in_every_setting(bundle: Bundle, clock: Clock) -> None:
    tried: list[Trial] = []
    choice = choose_runtime(bundle, slow(clock, tried, 0.001))
    assert tried == [(threads, batch) for threads in (4, 2, 1) for batch in (1, 4, 16)]
    assert choice.threads == 4
    assert remembered_choice(bundle) == choice


@pytest.mark.parametrize("seconds", [0.01, 0.05, 0.1, 0.3, 0.9])
def test_what_would_take_too_long_is_not_tried(bundle: Bundle, clock: Clock, seconds: float) -> None:
    tried: list[Trial] = []
    choose_runtime(bundle, slow(clock, tried, seconds))
    assert tried[0] == (4, 1)
    assert clock.now <= runtime_choice.SECONDS
    assert len(tried) < 9


def test_a_slow_network_is_measured_once(bundle: Bundle, clock: Clock) -> None:
    tried: list[Trial] = []
    choice = choose_runtime(bundle, slow(clock, tried, 10.0))
    assert tried == [(4, 1)]
    assert clock.now == pytest.approx(10.0)
    assert (choice.threads, choice.batch_size) == (4, 1)
    assert choice.images_per_second == pytest.approx(0.1)


def test_a_slow_start_counts(bundle: Bundle, clock: Clock) -> None:
    tried: list[Trial] = []
    choose_runtime(bundle, slow(clock, tried, 0.001, starting=4.0))
    assert {threads for threads, _ in tried} == {4}
    assert clock.now < runtime_choice.SECONDS


def test_cores_are_those_that_may_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 3}, raising=False)
    assert runtime_choice._thread_counts() == [2, 1]
    monkeypatch.delattr(os, "sched_getaffinity")
    assert runtime_choice._thread_counts() == [64, 32, 1]


def test_nothing_is_measured_before_the_probes_pass(
    path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise UserError("probes fail", "probes that pass", "Export again.")

    def measuring(*arguments: object) -> float:
        measured.append(1)
        return 1.0

    measured: list[int] = []
    monkeypatch.setattr(predictor_module, "refuse_failed", failing)
    monkeypatch.setattr(runtime_choice, "_images_per_second", measuring)
    with pytest.raises(UserError, match="probes fail"):
        Predictor.open(path, measure=True)
    assert measured == []
    assert remembered_choice(bundle) is None


def test_what_a_runtime_raises_is_told(path: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(files: object, precision: str, runtime: Runtime) -> Session:
        real = form.open(bundle.model, precision, runtime)

        def session(inputs: NDArray[np.generic]) -> Outputs:
            if len(inputs) == 4:
                raise RuntimeError("out of memory\nand much more")
            return real(inputs)

        return session

    form = bundle.form
    flawed = replace(bundle, form=replace(form, open=start))
    monkeypatch.setattr(predictor_module, "open_bundle", lambda _: flawed)
    with pytest.raises(UserError, match=r"fails on 4 at once \(out of memory\)"):
        Predictor.open(path, measure=True)
    assert remembered_choice(bundle) is None
    with pytest.raises(UserError, match="fails on 4 at once"):
        Predictor.open(path).outputs(np.zeros((4, 28, 28, 1), np.uint8))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Threads of every session."""
    threads: list[int | None] = []
    real = predictor_module.open_session

    def seen(bundle: Bundle, runtime: Runtime, *, allow_native_code: bool = False) -> Session:
        threads.append(runtime.threads)
        return real(bundle, runtime, allow_native_code=allow_native_code)

    monkeypatch.setattr(predictor_module, "open_session", seen)
    return threads


def test_only_what_is_missing_is_filled_in(path: Path, bundle: Bundle, started: list[int | None]) -> None:
    assert Predictor.open(path).batch_size == BATCH_SIZE
    remember(bundle, CHOICE, asdict(MEASURED))
    assert Predictor.open(path).batch_size == 4
    assert Predictor.open(path, batch_size=8).batch_size == 8
    assert Predictor.open(path, runtime=Runtime(2)).batch_size == 4
    assert Predictor.open(path, runtime=Runtime(2), batch_size=8).batch_size == 8
    assert started == [None, 1, 1, 2, 2]


def test_what_is_given_is_kept_where_the_rest_is_measured(
    path: Path, bundle: Bundle, started: list[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor_module, "choose_runtime", lambda *_: MEASURED)
    assert Predictor.open(path, batch_size=8, measure=True).batch_size == 8
    assert started[-1] == 1
    assert Predictor.open(path, runtime=Runtime(2), measure=True).batch_size == 4
    assert started[-1] == 2


def test_a_bundle_runs_on_the_cpu(path: Path) -> None:
    for device in ("auto", "cpu"):
        assert open_network(path, How(device=device)).batch_size == BATCH_SIZE
    with pytest.raises(UserError, match="bundles run on the CPU"):
        open_network(path, How(device="cuda"))


def test_a_run_takes_the_batch_size_and_refuses_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "convcraft.workflows.run_network.RunNetwork", lambda where, device: SimpleNamespace(batch_size=64)
    )
    assert open_network(tmp_path, How()).batch_size == 64
    assert open_network(tmp_path, How(batch_size=8)).batch_size == 8
    with pytest.raises(UserError, match="OMP_NUM_THREADS"):
        open_network(tmp_path, How(threads=2))
