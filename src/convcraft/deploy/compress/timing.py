"""How long networks, or whatever answers as one, take on this machine, measured in turns."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from statistics import median

import torch
from torch import nn

from convcraft.data.sample import Progress

ROUNDS, WARM_UP = 15, 3
PAUSE_SECONDS = 0.03  # until the threads of what ran before have stopped to wait for work, which takes a core
ROUND_SECONDS = 0.02  # a round of one network lasts at least so long: clocks and other work blur less


def seconds_in_turns(
    calls: Sequence[Callable[[int], object]], rounds: int = ROUNDS, progress: Progress | None = None
) -> list[list[float]]:
    """Seconds that each call takes, one figure per round.

    They take turns in every round, so that what else the machine does meets all alike. Each begins with a pause and a
    call that does not count: one runtime's waiting threads make the next one half as fast, and its weights have to come
    into the cache again, which they are in where it works alone.

    Args:
        calls: each is given the number of the round.
    """
    repeats = [_repeats(call) for call in calls]
    seconds: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds):
        if progress is not None:
            progress(turn, rounds, "timing")
        for call, times, taken in zip(calls, repeats, seconds, strict=True):
            time.sleep(PAUSE_SECONDS)
            call(turn)
            began = time.perf_counter()
            for _ in range(times):
                call(turn)
            taken.append((time.perf_counter() - began) / times)
    return seconds


@torch.inference_mode()
def milliseconds_per_image(
    networks: Mapping[str, nn.Module],
    image_shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 16),
    rounds: int = ROUNDS,
) -> dict[str, dict[int, float]]:
    """Median milliseconds for one image, of each network at each batch size, on the CPU as `predict` computes.

    Copies are timed, all with weights in the layout of a network that was just loaded: training leaves channels last,
    which alone may be twice as fast.

    Args:
        networks: in evaluation mode. image_shape: C, H, W.
    """
    loaded = [copy.deepcopy(network).to(memory_format=torch.contiguous_format) for network in networks.values()]
    taken: dict[str, dict[int, float]] = {name: {} for name in networks}
    for batch_size in batch_sizes:
        images = torch.rand(batch_size, *image_shape)
        calls = [partial(_answer, network, images) for network in loaded]
        for name, seconds in zip(networks, seconds_in_turns(calls, rounds), strict=True):
            taken[name][batch_size] = 1000 * median(seconds) / batch_size
    return taken


def _answer(network: nn.Module, images: torch.Tensor, _: int) -> None:
    network(images)


def _repeats(call: Callable[[int], object]) -> int:
    quickest = float("inf")
    for turn in range(WARM_UP):
        began = time.perf_counter()
        call(turn)
        quickest = min(quickest, time.perf_counter() - began)
    return max(1, round(ROUND_SECONDS / max(quickest, 1e-6)))
