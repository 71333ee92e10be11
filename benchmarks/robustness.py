"""Measures what the shipped network mnist-resnet20 withstands: corruptions, moves of the image, attacks.

    python benchmarks/robustness.py [--images 1000] [--figures FOLDER]

Judges a stratified sample of MNIST's test images, which the network has not seen, and times the corruptions on images
of 32 and 224 pixels. Takes some minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, hardware, versions, write_result
from torch import nn

from convcraft.config import DataConfig, RunConfig
from convcraft.data.corruptions import NAMES, SEVERITIES, corrupt
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.sources import open_source
from convcraft.evaluation.attack_curves import AttackReport, attack_report
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.predict_function import predict_function
from convcraft.evaluation.robustness import (
    CorruptionReport,
    Curve,
    corruption_report,
    flip_report,
    rotation_curve,
    scale_curve,
    shift_curve,
)
from convcraft.evaluation.test_time import rotation_views, shift_views, view_gain
from convcraft.models.build import build_model
from convcraft.models.pretrained import resolve_pretrained
from convcraft.models.weights import load_weights
from convcraft.report.robustness_plots import accuracy_curves, corruption_sheet, corruption_table

NETWORK = "mnist-resnet20"
EPSILONS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)  # 0.3 is usual for MNIST (Madry et al. 2018)
PGD_STEPS = 20
SPEED_LIMITS_SECONDS = {"32_px": 60, "224_px": 300}  # 75 corruptions of 1,000 and of 150 images
SPEED_IMAGES, TIMED_SHARE = {"32_px": 1000, "224_px": 150}, 10  # a tenth is timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--figures", type=Path, help="folder for the figures, as PNG")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, preprocess = network()
    images = test_images(preprocess, arguments.images)
    predict = predict_function(model, preprocess)
    seconds, moment = {}, time.perf_counter()
    corruptions = corruption_report(predict, images)
    seconds["corruptions"], moment = time.perf_counter() - moment, time.perf_counter()
    shifts = [shift_curve(predict, images, axis) for axis in ("x", "y")]
    curves = [rotation_curve(predict, images), *shifts, scale_curve(predict, images)]
    seconds["moves"], moment = time.perf_counter() - moment, time.perf_counter()
    attacks = attack_report(model, images, preprocess, EPSILONS, steps=PGD_STEPS)
    seconds["attacks"] = time.perf_counter() - moment
    views = (*shift_views(1), *rotation_views(8))
    result = {
        "network": NETWORK,
        "images": f"{len(images)} of {images.num_available} test images of MNIST, stratified",
        "frost": "drawn ice, not the photographs of ImageNet-C: figures compare within convcraft only",
        "corruptions": corruptions.to_dict(),
        "moves": {curve.name: curve.to_dict() for curve in curves},
        "flip": flip_report(predict, images).to_dict(),
        "attacks": attacks.to_dict(),
        "test_time": view_gain(predict, images, views).to_dict(),
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "corruption_speed": {name: speed(name) for name in SPEED_IMAGES},
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "numpy", "scipy", "pillow"),
    }
    write_result("robustness", result)
    if arguments.figures:
        draw(arguments.figures, images, corruptions, curves, attacks)


def network() -> tuple[nn.Module, Preprocess]:
    """The shipped network, and the preprocessing of its card."""
    found = resolve_pretrained(NETWORK)
    card = found.card
    assert card is not None
    channels, height, width = card.input_size
    config = found.settled(RunConfig())
    model = build_model(config.model, num_classes=card.num_classes, in_channels=channels, image_size=(height, width))
    load_weights(model, found.path)
    preprocess = Preprocess(
        height=height, width=width, channels=channels, resize=card.resize, mean=card.mean, std=card.std
    )
    return model.eval(), preprocess


def test_images(preprocess: Preprocess, size: int) -> JudgedImages:
    source = open_source(DataConfig(source="mnist", data_dir=str(DATA)))
    return JudgedImages.of_set(ImageSet.build(source.splits["test"], preprocess, 1 << 30), size)


def speed(name: str) -> dict[str, Any]:
    """How long all corruptions take, on random blotches of that size, from a tenth of the images."""
    side, number = int(name.removesuffix("_px")), SPEED_IMAGES[name] // TIMED_SHARE
    blotches = np.random.default_rng(0).integers(0, 256, (number, side // 8, side // 8, 3), dtype=np.uint8)
    images = blotches.repeat(8, axis=1).repeat(8, axis=2)
    corrupt(images[:1], "frost", 1)
    seconds = {}
    for corruption in NAMES:
        begun = time.perf_counter()
        for severity in SEVERITIES:
            corrupt(images, corruption, severity)
        seconds[corruption] = (time.perf_counter() - begun) * TIMED_SHARE
    total = sum(seconds.values())
    return {
        "images": SPEED_IMAGES[name],
        "seconds_for_all_75": round(total, 1),
        "limit_seconds": SPEED_LIMITS_SECONDS[name],
        "within_limit": total < SPEED_LIMITS_SECONDS[name],
        "milliseconds_per_image": {
            key: round(1000 * value / SPEED_IMAGES[name] / len(SEVERITIES), 3) for key, value in seconds.items()
        },
    }


def draw(
    folder: Path, images: JudgedImages, corruptions: CorruptionReport, curves: Sequence[Curve], attacks: AttackReport
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = list(corruptions.by_corruption)
    table = np.array([[point.accuracy for point in corruptions.by_corruption[name]] for name in names])
    figures = {"corruptions": corruption_table(names, SEVERITIES, table, corruptions.clean.accuracy)}
    rotation, shift_x, shift_y, scale = curves
    figures["rotation"] = accuracy_curves(drawn(rotation), "turned by degrees", chance=0.1)
    figures["shift"] = accuracy_curves(drawn(shift_x, shift_y), "moved by share of the size", chance=0.1)
    figures["scale"] = accuracy_curves(drawn(scale), "content enlarged by factor", chance=0.1)
    figures["attacks"] = accuracy_curves(
        drawn(attacks.pgd, attacks.fgsm, attacks.noise), "epsilon, of pixels in 0..1", chance=0.1
    )
    figures["sheet"] = corruption_sheet(images.pixels[0])
    for name, figure in figures.items():
        figure.savefig(folder / f"robustness_{name}.png", dpi=150)


def drawn(*curves: Curve) -> dict[str, tuple[list[float], list[float], list[tuple[float, float]]]]:
    return {
        curve.name.replace("_", " "): (
            [point.value for point in curve.points],
            [point.accuracy for point in curve.points],
            [point.interval for point in curve.points],
        )
        for curve in curves
    }


if __name__ == "__main__":
    main()
