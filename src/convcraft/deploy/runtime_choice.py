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
SECONDS = 6.0  # after this, what has not been tried is left out


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
    """The fastest of some settings, measured unless it is remembered.

    Args:
        start: a session with given settings.
    """
    known = remembered_choice(bundle)
    if known is not None:
        return known
    began = time.monotonic()
    tried: list[RuntimeChoice] = []
    for threads in _thread_counts():
        session = start(Runtime(threads))
        for batch_size in BATCH_SIZES:
            if tried and time.monotonic() - began > SECONDS:
                break
            tried.append(RuntimeChoice(threads, batch_size, _images_per_second(bundle, session, batch_size)))
    best = max(tried, key=lambda choice: choice.images_per_second)
    remember(bundle, CHOICE, asdict(best))
    return best


def _thread_counts() -> list[int]:
    cores = os.cpu_count() or 1
    return sorted({1, max(cores // 2, 1), cores}, reverse=True)


def _images_per_second(bundle: Bundle, session: Session, batch_size: int) -> float:
    contract = bundle.preprocess
    shape = (batch_size, contract.height, contract.width, contract.channels)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    inputs = pixels if bundle.manifest.normalises else contract.normalise(pixels)
    session(inputs)  # the first prepares memory
    seconds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        session(inputs)
        seconds.append(time.perf_counter() - began)
    return batch_size / median(seconds)
