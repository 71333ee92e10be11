"""Claim: the NumPy engine trains small networks at least as fast as eager torch (float32, NCHW, Adam).

    python benchmarks/scratch_train_speed.py [--rounds 15] [--steps 30] [--threads N] [--networks lenet5 ...]

One process, both sides in turn (A B A B ..., the order turned round every round), batch 64 of 28x28 pixels, forward,
loss, backward and step. torch: the textbook loop with torch.optim.Adam as it comes, and, for information, with its
fused kernel and channels-last memory, which our torch engine uses. Both sides keep freed memory (`training.allocator`),
have the same number of threads and the same start weights; before anything is timed their losses of five steps must
agree. The bar is on the median of the rounds' ratios. Waiting OpenMP threads sleep, as in `convcraft train`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded

import numpy as np
import torch
from measured_on import hardware, spread, stolen_seconds, versions, write_result

from convcraft.config import ModelConfig
from convcraft.models.build import build_model
from convcraft.scratch.halves import in_halves
from convcraft.scratch.losses import CrossEntropyLoss
from convcraft.scratch.optim import Adam
from convcraft.training.allocator import keep_freed_memory
from convcraft.workflows.scratch.networks import numpy_network
from convcraft.workflows.scratch.trainer import numpy_threads

NETWORKS = {
    "lenet5": ModelConfig(name="lenet5"),
    "lenet5 relu": ModelConfig(name="lenet5", args={"activation": "relu"}),
    "seed_cnn": ModelConfig(name="seed_cnn"),
}
BATCH_SIZE, NUM_BATCHES, RATE = 64, 20, 1e-3
BAR = 1.0
Step = Callable[[int], float]  # number of the batch -> loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=30, help="optimiser steps per side and round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    arguments = parser.parse_args()
    keep_freed_memory()
    stolen_before = stolen_seconds()
    found: dict[str, Any] = {}
    with numpy_threads(arguments.threads):
        for name in arguments.networks:
            found[name] = _compare(NETWORKS[name], arguments.rounds, arguments.steps)
            ratio = found[name]["ratio"]["median"]
            print(f"{name}: NumPy {ratio:.2f} times as fast as eager torch", flush=True)
            write_result(
                "scratch_train_speed",
                {
                    "claim": f"NumPy trains at >= {BAR} times the speed of eager torch, float32, NCHW, Adam, batch 64",
                    "bar": BAR,
                    "met": all(figures["ratio"]["median"] >= BAR for figures in found.values()),
                    "networks": found,
                    "rounds": arguments.rounds,
                    "steps_per_round": arguments.steps,
                    "threads": arguments.threads,
                    "wait_policy": os.environ["OMP_WAIT_POLICY"],
                    "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                    "hardware": hardware(),
                    "versions": versions("convcraft", "torch", "numpy"),
                },
            )


def _compare(config: ModelConfig, rounds: int, steps: int) -> dict[str, Any]:
    """Images per second of every side, round by round, and the ratio of NumPy to eager torch."""
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(NUM_BATCHES, BATCH_SIZE, 1, 28, 28, generator=draw)
    labels = torch.randint(10, (NUM_BATCHES, BATCH_SIZE), generator=draw)
    sides = {
        "numpy": _numpy_side(config, images.numpy(), labels.numpy()),
        "torch eager": _torch_side(config, images, labels, ours=False),
        "torch fused Adam, channels last": _torch_side(config, images, labels, ours=True),
    }
    agreement = _check_losses({name: [side(number) for number in range(5)] for name, side in sides.items()})
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-1, rounds):  # the first warms up
        order = list(sides) if number % 2 else list(reversed(sides))
        for name in order:
            rate = _images_per_second(sides[name], steps)
            if number >= 0:
                rates[name].append(rate)
    ratios = [ours / theirs for ours, theirs in zip(rates["numpy"], rates["torch eager"], strict=True)]
    best = [ours / theirs for ours, theirs in zip(rates["numpy"], rates[list(sides)[2]], strict=True)]
    return {
        "images_per_second": {name: _figures(values) for name, values in rates.items()},
        "ratio": _figures(ratios),
        "ratio_to_our_torch_settings": _figures(best),
        "largest_difference_of_losses": agreement,
    }


def _figures(values: list[float]) -> dict[str, Any]:
    return {"median": statistics.median(values), **spread(values)}


def _images_per_second(step: Step, steps: int) -> float:
    started = time.perf_counter()
    for number in range(steps):
        step(number % NUM_BATCHES)
    return steps * BATCH_SIZE / (time.perf_counter() - started)


def _check_losses(losses: dict[str, Sequence[float]]) -> float:
    """The largest relative difference of the first losses; stops where the sides do not compute the same."""
    expected = np.array(losses["torch eager"])
    largest = max(float(np.abs(np.array(values) / expected - 1).max()) for values in losses.values())
    if largest > 1e-4:
        raise SystemExit(f"the sides do not compute the same: {losses}")
    return largest


def _start(config: ModelConfig) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(config, num_classes=10, in_channels=1, image_size=(28, 28))


def _numpy_side(config: ModelConfig, images: Any, labels: Any) -> Step:
    network = numpy_network(config, _start(config), np.random.default_rng(0)).train()
    criterion, optimizer, passes = CrossEntropyLoss(), Adam(network.parameters(), RATE), in_halves(network)

    def step(number: int) -> float:
        network.zero_grad()
        loss = criterion(passes(images[number]), labels[number])
        passes.backward(criterion.backward())
        optimizer.step()
        return float(loss)

    return step


def _torch_side(config: ModelConfig, images: torch.Tensor, labels: torch.Tensor, *, ours: bool) -> Step:
    network = _start(config).train()
    if ours:
        network = network.to(memory_format=torch.channels_last)  # images of one channel are the same in both
    criterion = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(network.parameters(), RATE, **({"fused": True} if ours else {}))

    def step(number: int) -> float:
        optimizer.zero_grad()
        loss = criterion(network(images[number]), labels[number])
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return step


if __name__ == "__main__":
    main()
