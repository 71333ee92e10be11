"""How many threads and how many pictures at once are fastest here: measured for a few seconds, then remembered."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median

import numpy as np

from convcraft.deploy.bundle import Bundle
from convcraft.deploy.formats.form import Runtime, Session
from convcraft.deploy.remembered import recall, remember

CHOICE = "runtime"
BATCH_SIZES = (1, 4, 16)
ROUNDS = 5
SECONDS = 6.0  # what would take longer than is left of them is not tried


@dataclass(frozen=True)
class RuntimeChoice:
    """threads: of the runtime. batch_size: pictures at once. images_per_second: what that gave, decoding left out."""

    threads: int
    batch_size: int
    images_per_second: float

    @property
    def runtime(self) -> Runtime:
        return Runtime(self.threads)


def remembered_choice(bundle: Bundle) -> RuntimeChoice | None:
    """What was measured for this bundle on this machine before."""
    found = recall(bundle, CHOICE)
    try:
        return None if found is None else RuntimeChoice(**found)
    except TypeError:
        return None


def choose_runtime(bundle: Bundle, start: Callable[[Runtime], Session]) -> RuntimeChoice:
    """The fastest of some settings, measured unless it is remembered; for a bundle whose probes have passed.

    Args:
        start: a session with given settings.

    Raises:
        UserError: from `start` or its session; then nothing is remembered.
    """
    known = remembered_choice(bundle)
    if known is not None:
        return known
    deadline = time.perf_counter() + SECONDS
    starting = 0.0
    tried: list[RuntimeChoice] = []
    for threads in _thread_counts():
        began = time.perf_counter()
        if tried and began + starting + _expected_seconds(tried, threads, 1) > deadline:
            break
        session = start(Runtime(threads))
        starting = time.perf_counter() - began
        for batch_size in BATCH_SIZES:
            if batch_size > 1 and time.perf_counter() + _expected_seconds(tried, threads, batch_size) > deadline:
                break
            speed = _images_per_second(bundle, session, batch_size, deadline)
            tried.append(RuntimeChoice(threads, batch_size, speed))
    best = max(tried, key=lambda choice: choice.images_per_second)
    remember(bundle, CHOICE, asdict(best))
    return best


def _thread_counts() -> list[int]:
    cores = _cores()
    return sorted({1, max(cores // 2, 1), cores}, reverse=True)


def _cores() -> int:
    """Those that this process may use, where the system says."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _expected_seconds(tried: list[RuntimeChoice], threads: int, batch_size: int) -> float:
    """Of a measurement, at most: from the last batch of one picture, as if a batch saved nothing, and as if fewer
    threads took longer by as much as they are fewer."""
    one = next(choice for choice in reversed(tried) if choice.batch_size == 1)
    return (1 + ROUNDS) * batch_size / one.images_per_second * max(one.threads / threads, 1)


def _images_per_second(bundle: Bundle, session: Session, batch_size: int, deadline: float) -> float:
    contract = bundle.preprocess
    shape = (batch_size, contract.height, contract.width, contract.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    inputs = pixels if bundle.manifest.normalises else contract.normalise(pixels)
    seconds: list[float] = []
    while not seconds or (len(seconds) <= ROUNDS and time.perf_counter() < deadline):
        began = time.perf_counter()
        session(inputs)
        seconds.append(time.perf_counter() - began)
    return batch_size / median(seconds[1:] or seconds)  # the first prepares memory, and counts only where it is alone
