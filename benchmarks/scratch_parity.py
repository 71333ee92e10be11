"""Claim: the NumPy engine computes what torch computes, layer by layer, network by network, and on 10,000 real images.

    python benchmarks/scratch_parity.py [--images 10000]

1. Every layer, float64: the largest difference of the output (bar 1e-12) and of all gradients and running statistics
   (1e-10), over the cases of tests/test_scratch_layers.py.
2. Every network, float64, training mode, from the same weights: logits (1e-10), gradients and statistics (1e-8).
3. The published ResNet-20 in float32 on CIFAR-10's test images (JPEG files): logits (1e-4), the same answer for every
   image, and the accuracy that torch has.

Numbers are differences, not times: other work on the machine does not change them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, hardware, versions, write_result
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # what is compared, and how, is the tests'

from scratch_cifar import cifar_images, trained_resnet20
from scratch_parity import FORWARD, GRADIENT, LOGITS, NETWORK_GRADIENT, gap, gaps, network_gaps, take_over
from test_scratch_layers import CONVOLUTIONS, POOLS, with_history
from test_scratch_networks import LARGE, SMALL

from convcraft.scratch import layers
from convcraft.scratch.module import Module

FLOAT32_LOGITS = 1e-4
ACCURACY = 0.8103  # of these weights on these files, as their manifest says
Case = tuple[Module, nn.Module, tuple[int, ...]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    found_layers = {name: compare_layer(cases) for name, cases in layer_cases().items()}
    found_networks = {}
    for name, (make, shape) in {**SMALL, **LARGE}.items():
        found_networks[name] = compare_network(*make(), shape)
        print(f"{name}: {found_networks[name]}", flush=True)
    images = compare_images(arguments.images)
    print(images, flush=True)
    result = {
        "claim": "NumPy and torch agree: layers, networks, and ResNet-20 on real images",
        "layers": found_layers,
        "networks": found_networks,
        "resnet20_float32": images,
        "bars": {
            "layer_output": FORWARD,
            "layer_gradient": GRADIENT,
            "network_logits": LOGITS,
            "network_gradient": NETWORK_GRADIENT,
            "float32_logits": FLOAT32_LOGITS,
        },
        "met": all(each["output"] <= FORWARD and each["gradient"] <= GRADIENT for each in found_layers.values())
        and all(each["logits"] <= LOGITS and each["gradient"] <= NETWORK_GRADIENT for each in found_networks.values())
        and images["largest_difference"] <= FLOAT32_LOGITS
        and images["same_answer"] == images["images"]
        and (images["images"] < 10_000 or round(images["accuracy"], 4) == ACCURACY),
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "numpy"),
    }
    write_result("scratch_parity", result)


def layer_cases() -> dict[str, list[Case]]:
    """Every layer beside its twin, with the shape of an input."""
    maps, rows = (3, 6, 9, 8), (5, 7)
    return {
        "Conv2d": [(layers.Conv2d(**each), nn.Conv2d(**each), shape) for each, shape in CONVOLUTIONS],
        "Linear": [(layers.Linear(7, 4, bias=bias), nn.Linear(7, 4, bias=bias), rows) for bias in (True, False)],
        "BatchNorm2d": list(batch_norm_cases()),
        "MaxPool2d": [(layers.MaxPool2d(**each), nn.MaxPool2d(**each), maps) for each in POOLS],
        "AvgPool2d": [(layers.AvgPool2d(**each), nn.AvgPool2d(**each), maps) for each in POOLS],
        "AdaptiveAvgPool2d": [
            (layers.AdaptiveAvgPool2d(size), nn.AdaptiveAvgPool2d(size), maps) for size in (1, 2, (3, 5), (10, 4))
        ],
        "LocalResponseNorm": [(layers.LocalResponseNorm(5, 0.3), nn.LocalResponseNorm(5, 0.3), maps)],
        "ReLU": [(layers.ReLU(), nn.ReLU(), maps)],
        "LeakyReLU": [(layers.LeakyReLU(0.2), nn.LeakyReLU(0.2), maps)],
        "Sigmoid": [(layers.Sigmoid(), nn.Sigmoid(), maps)],
        "Tanh": [(layers.Tanh(), nn.Tanh(), maps)],
        "Softmax": [(layers.Softmax(1), nn.Softmax(1), maps)],
        "LogSoftmax": [(layers.LogSoftmax(1), nn.LogSoftmax(1), maps)],
        "Flatten": [(layers.Flatten(), nn.Flatten(), maps)],
    }


def batch_norm_cases() -> Iterator[Case]:
    for settings in ({}, {"momentum": 0.3, "eps": 1e-3}, {"momentum": None}, {"affine": False}):
        for training in (True, False):
            layer, twin = layers.BatchNorm2d(6, **settings), with_history(nn.BatchNorm2d(6, **settings))
            layer.train(training)
            twin.train(training)
            yield layer, twin, (3, 6, 9, 8)


def compare_layer(cases: Iterable[Case]) -> dict[str, Any]:
    """The largest difference over all cases."""
    output, gradient, count = 0.0, 0.0, 0
    for layer, twin, shape in cases:
        take_over(layer, twin)
        found = gaps(layer, twin, np.random.default_rng(count).standard_normal(shape))
        output, count = max(output, found.pop("output")), count + 1
        gradient = max(gradient, *found.values())
    return {"cases": count, "output": output, "gradient": gradient}


def compare_network(network: Module, twin: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """After one forward and backward of cross-entropy in training mode."""
    take_over(network, twin)
    rng = np.random.default_rng(0)
    found = network_gaps(network, twin, rng.standard_normal(shape), rng.integers(0, 10, shape[0]))
    logits = found.pop("logits")
    parameters = sum(parameter.data.size for parameter in network.parameters())
    return {"parameters": parameters, "input": list(shape), "logits": logits, "gradient": max(found.values())}


def compare_images(number: int, batch: int = 200) -> dict[str, Any]:
    """The published ResNet-20 on real images, in float32."""
    network, twin = trained_resnet20(DATA)
    images, labels = cifar_images(DATA, number)
    largest, range_of_logits, same, right, torch_right = 0.0, 0.0, 0, 0, 0
    for start in range(0, len(images), batch):
        some, truth = images[start : start + batch], labels[start : start + batch]
        logits = network(some)
        with torch.no_grad():
            expected = twin(torch.tensor(some)).numpy()
        largest, range_of_logits = (
            max(largest, gap(logits, expected)),
            max(range_of_logits, float(np.abs(expected).max())),
        )
        same += int((logits.argmax(axis=1) == expected.argmax(axis=1)).sum())
        right += int((logits.argmax(axis=1) == truth).sum())
        torch_right += int((expected.argmax(axis=1) == truth).sum())
    return {
        "images": len(images),
        "largest_difference": largest,
        "largest_logit": range_of_logits,
        "same_answer": same,
        "accuracy": right / len(images),
        "torch_accuracy": torch_right / len(images),
    }


if __name__ == "__main__":
    main()
