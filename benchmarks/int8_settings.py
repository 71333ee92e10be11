"""Claim: in int8, mean errors taken off the biases keep logits nearer; cutting ranges wins nothing on both networks.

    CONVCRAFT_DATA=DATA python benchmarks/int8_settings.py [--images N] [--calibration N]

ResNet-20 (published CIFAR-10 weights, CIFAR-10 test images) and MobileNetV2 (ImageNet weights, ants/bees photos), as
ONNX in 8 bits. Ranges of activations come from some images, the change of the logits is measured on others:

- noise: root of the mean squared change, as a share of the spread of the logits.
- agreement: share of the images with the same answer.

By entropy and percentile, ONNX Runtime's calibrators leave out rare values so that common ones have finer steps.
Numbers are differences, not times. Result: benchmarks/results/int8_settings.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from typing import Any

import numpy as np
from export_parity import CASES, model_of
from measured_on import hardware, versions, write_result

from convcraft.deploy.compress.rounding import mean_rounding_errors
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats import onnx
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.formats.onnx_int8 import activation_ranges, quantised
from convcraft.deploy.formats.onnx_layers import without_rounding_errors
from convcraft.deploy.judges import session_outputs, source_outputs

NETWORKS = ("resnet20_cifar", "mobilenetv2_100")
RANGES = ("MinMax", "Entropy", "Percentile")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=300, help="on which the change is measured")
    parser.add_argument("--calibration", type=int, default=64, help="by which ranges are chosen")
    asked = parser.parse_args()
    warnings.filterwarnings("ignore")
    networks = {name: measured(name, asked.calibration, asked.images) for name in NETWORKS}
    write_result(
        "int8_settings",
        {
            "claim": "mean rounding errors off the biases keep logits nearer; cutting ranges wins on one network alone",
            "calibration_images": asked.calibration,
            "images": asked.images,
            "networks": networks,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "onnx", "onnxruntime", "numpy"),
        },
    )


def measured(name: str, calibration: int, images: int) -> dict[str, Any]:
    """Ranges, with and without means -> figures."""
    case = CASES[name]
    pixels = case.images(case.contract, calibration + images)
    network = ExportNetwork(model_of(case, pixels), case.contract, made_by=case.config)
    shown, judged = network.inputs_of(pixels[::-1][:calibration]), pixels[:images]
    expected = source_outputs(network, judged).logits
    model, errors = onnx.traced(network), mean_rounding_errors(network, shown)
    found = {}
    for method in RANGES:
        began = time.monotonic()
        ranges = activation_ranges(model, onnx.INPUT, shown, method)
        seconds = time.monotonic() - began
        for means in (True, False):
            content = quantised(without_rounding_errors(model, errors, ()) if means else model, ranges)
            session = onnx.open_session({onnx.FILE: content}, "int8", Runtime())
            logits = session_outputs(session, network, judged).logits
            key = f"{method}, mean errors off" if means else method
            found[key] = {
                "noise": float(np.sqrt(np.mean((logits - expected) ** 2)) / expected.std()),
                "agreement": float(np.mean(logits.argmax(axis=1) == expected.argmax(axis=1))),
                "seconds_for_ranges": seconds,
            }
            print(name, key, found[key], flush=True)
    return found


if __name__ == "__main__":
    main()
