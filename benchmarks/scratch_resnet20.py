"""Claim: NumPy trains ResNet-20 as torch does: from the same weights, images and order, the same loss at every step.

    python benchmarks/scratch_resnet20.py [--images 5000] [--threads 1]
    python benchmarks/scratch_resnet20.py --figure                       # draws docs/assets/scratch-divergence.png

One epoch on the first 5,000 CIFAR-10 train images (JPEG files) in float64: batch 128, SGD with momentum 0.9, random
crops out of a border of 4 and flips, drawn once and given to all; the last of the 40 steps has the 8 images that are
left. At learning rate 0.01 the losses agree to 1e-6 at every step (the bar). Beside it learning rate 0.1, where no two
programs can agree: a second torch run in which one weight differs by 2e-16, the smallest step of float64, parts from
the first a few steps after NumPy does. Training at a large rate multiplies every difference, step by step; whoever
compares two implementations compares at a small one.

Numbers are losses, not times: other work on the machine does not change them. The result is written after every run.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, RESULTS, hardware, versions, write_result
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from scratch_cifar import cifar_images
from scratch_parity import take_over

from convcraft.models.resnet_cifar import ResNetCifar as TorchResNetCifar
from convcraft.scratch.checks import Array
from convcraft.scratch.losses import CrossEntropyLoss
from convcraft.scratch.networks.resnet_cifar import ResNetCifar
from convcraft.scratch.optim import SGD

NAME = "scratch_resnet20"
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "scratch-divergence.png"
RATES, MOMENTUM, BATCH, BAR = (0.01, 0.1), 0.9, 128, 1e-6
PARTED = 1e-3  # a difference of losses that a curve shows
ONE_STEP = 2.0**-52  # of float64 at 1: 2.2e-16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--figure", action="store_true", help="draw the saved result")
    arguments = parser.parse_args()
    if arguments.figure:
        draw(json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8")), FIGURE)
        return
    torch.set_num_threads(arguments.threads)
    images, labels = augmented(arguments.images)
    start = start_weights()
    runs: dict[str, dict[str, Any]] = {}
    sides = {"torch": train_torch, "numpy": train_numpy, "torch_moved": train_moved}
    for rate in RATES:
        for side, run in sides.items():
            if side == "torch_moved" and rate == RATES[0]:
                continue  # says nothing where NumPy does not part
            began = time.perf_counter()
            losses, weights = run(start, images, labels, rate)
            runs[f"{side} {rate}"] = {"loss": losses, "seconds": time.perf_counter() - began, "weights": weights}
            print(f"{side} at {rate}: {len(losses)} steps, last loss {losses[-1]:.6f}", flush=True)
            write_result(NAME, describe(runs, arguments.images, arguments.threads))
    draw(json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8")), FIGURE)


def describe(runs: Mapping[str, Mapping[str, Any]], images: int, threads: int) -> dict[str, Any]:
    """What the runs that are done say."""
    rates: dict[str, Any] = {}
    for rate in RATES:
        base = runs.get(f"torch {rate}")
        if base is None:
            continue
        found: dict[str, Any] = {"torch_loss": base["loss"], "seconds": {"torch": round(base["seconds"], 1)}}
        for side in ("numpy", "torch_moved"):
            run = runs.get(f"{side} {rate}")
            if run is None:
                continue
            apart = [abs(a - b) for a, b in zip(run["loss"], base["loss"], strict=True)]
            moved = max(float(np.abs(run["weights"][name] - array).max()) for name, array in base["weights"].items())
            found[side] = {
                "loss": run["loss"],
                "loss_difference": apart,
                "largest_loss_difference": max(apart),
                "first_step_apart": next((step for step, gap in enumerate(apart, 1) if gap > PARTED), None),
                "largest_weight_difference": moved,
            }
            found["seconds"][side] = round(run["seconds"], 1)
        rates[str(rate)] = found
    compared = rates.get(str(RATES[0]), {}).get("numpy")
    return {
        "claim": "NumPy and torch train ResNet-20 alike: losses agree to 1e-6 at every step at learning rate 0.01",
        "images": images,
        "steps": -(-images // BATCH),
        "rates": rates,
        "met": None if compared is None else compared["largest_loss_difference"] <= BAR,
        "threads": threads,
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "numpy"),
    }


def augmented(number: int) -> tuple[Array, Array]:
    """float64 images, each shifted by up to 4 pixels and perhaps mirrored, in a random order; and labels."""
    images, labels = cifar_images(DATA, number, "train")
    rng = np.random.default_rng(0)
    padded = np.pad(images, ((0, 0), (0, 0), (4, 4), (4, 4)))
    crops = np.empty_like(images)
    shifts, mirrors = rng.integers(0, 9, (number, 2)), rng.random(number) < 0.5
    for index, ((down, right), mirrored) in enumerate(zip(shifts, mirrors, strict=True)):
        crop = padded[index, :, down : down + 32, right : right + 32]
        crops[index] = crop[:, :, ::-1] if mirrored else crop
    order = rng.permutation(number)
    return crops[order].astype(np.float64), labels[order]


def start_weights() -> dict[str, Array]:
    torch.manual_seed(0)
    return {name: tensor.numpy().copy() for name, tensor in TorchResNetCifar().double().state_dict().items()}


def batches(images: Array, labels: Array) -> list[tuple[Array, Array]]:
    return [(images[i : i + BATCH], labels[i : i + BATCH]) for i in range(0, len(images), BATCH)]


def torch_network(start: Mapping[str, Array]) -> nn.Module:
    network = TorchResNetCifar().double()
    network.load_state_dict({name: torch.tensor(array) for name, array in start.items()})
    return network.train()


def train_torch(start: Mapping[str, Array], images: Array, labels: Array, rate: float) -> tuple[list[float], Any]:
    network = torch_network(start)
    optimizer = torch.optim.SGD(network.parameters(), lr=rate, momentum=MOMENTUM)
    losses = []
    for some, truth in batches(images, labels):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(torch.tensor(some)), torch.tensor(truth))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, {name: parameter.detach().numpy() for name, parameter in network.named_parameters()}


def train_moved(start: Mapping[str, Array], images: Array, labels: Array, rate: float) -> tuple[list[float], Any]:
    """Torch once more, with one weight of the first convolution one step of float64 further."""
    weight = start["conv1.weight"].copy()
    weight.flat[0] *= 1 + ONE_STEP
    return train_torch({**start, "conv1.weight": weight}, images, labels, rate)


def train_numpy(start: Mapping[str, Array], images: Array, labels: Array, rate: float) -> tuple[list[float], Any]:
    network, criterion = ResNetCifar(), CrossEntropyLoss()
    take_over(network, torch_network(start))
    network.train()
    optimizer = SGD(network.parameters(), learning_rate=rate, momentum=MOMENTUM)
    losses = []
    for some, truth in batches(images, labels):
        optimizer.zero_grad()
        loss = criterion(network(some), truth)
        network.backward(criterion.backward())
        optimizer.step()
        losses.append(float(loss))
    return losses, {name: parameter.data for name, parameter in network.named_parameters()}


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Losses at both rates, and how far two runs are apart, step by step."""
    import matplotlib
    from matplotlib.figure import Figure

    from convcraft.report.plots import BLUE, ORANGE, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.2), layout="constrained")
        left, right = figure.subplots(1, 2)
        for rate, colour in zip(RATES, (BLUE, ORANGE), strict=True):
            found = result["rates"][str(rate)]
            steps = range(1, len(found["torch_loss"]) + 1)
            left.plot(steps, found["torch_loss"], color=colour, linewidth=2.6, alpha=0.4, label=f"torch, {rate}")
            left.plot(steps, found["numpy"]["loss"], "--", color=colour, linewidth=1.1, label=f"NumPy, {rate}")
            for side, line, words in (
                ("numpy", "-", "NumPy and torch"),
                ("torch_moved", ":", "torch and torch + 2e-16"),
            ):
                if side not in found:
                    continue
                apart = np.maximum(found[side]["loss_difference"], 1e-17)
                right.semilogy(steps, apart, line, color=colour, linewidth=1.4, label=f"{words}, {rate}")
        right.axhline(BAR, color="0.6", linewidth=0.8)
        left.set(title="loss", xlabel="step")
        right.set(title="difference of two losses (0 is drawn as 1e-17)", xlabel="step")
        right.yaxis.set_major_formatter(lambda value, _: f"{value:.0e}")
        for axes in (left, right):
            axes.grid(axis="y")
            axes.legend(loc="best", fontsize=7)
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
