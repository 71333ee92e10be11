"""How long networks take on this machine, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from statistics import median

import torch
from torch import nn

ROUNDS, WARM_UP = 15, 3
ROUND_SECONDS = 0.02  # a round of one network lasts at least so long: clocks and other work blur less


@torch.inference_mode()
def milliseconds_per_image(
    networks: Mapping[str, nn.Module],
    image_shape: tuple[int, int, int],
    batch_sizes: Sequence[int] = (1, 16),
    rounds: int = ROUNDS,
) -> dict[str, dict[int, float]]:
    """Median milliseconds for one image, of each network at each batch size, on the CPU as `predict` computes.

    The networks take turns in every round, so that what else the machine does meets all alike.

    Args:
        networks: in evaluation mode. image_shape: C, H, W.
    """
    taken: dict[str, dict[int, float]] = {name: {} for name in networks}
    for batch_size in batch_sizes:
        images = torch.rand(batch_size, *image_shape)
        repeats = {name: _repeats(network, images) for name, network in networks.items()}
        seconds: dict[str, list[float]] = {name: [] for name in networks}
        for _ in range(rounds):
            for name, network in networks.items():
                began = time.perf_counter()
                for _ in range(repeats[name]):
                    network(images)
                seconds[name].append((time.perf_counter() - began) / repeats[name] / batch_size)
        for name, values in seconds.items():
            taken[name][batch_size] = 1000 * median(values)
    return taken


def _repeats(network: nn.Module, images: torch.Tensor) -> int:
    quickest = float("inf")
    for _ in range(WARM_UP):
        began = time.perf_counter()
        network(images)
        quickest = min(quickest, time.perf_counter() - began)
    return max(1, round(ROUND_SECONDS / max(quickest, 1e-6)))
