"""Images per second of every random change: whole batches here, image by image in torchvision.transforms.v2.

    python benchmarks/augment.py    # one thread, about a minute, needs no data

Both sides start from uint8 pixels in memory and end with a normalised float32 batch: ours through `Augmenter`,
torchvision's as its documentation shows (one tensor image at a time, ToDtype, Normalize, then stacked; MixUp and CutMix
on the stacked batch). The pixels are random, so nothing is easier than in photos. The two take turns, and the median
call counts; seconds are those of the processor, so that a busy machine blurs them less. The settings are the examples
of `data/augment_kinds.py`. Results: benchmarks/results/augment.json.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from measured_on import hardware, versions, write_result
from torch import Tensor
from torchvision.transforms import v2

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.augment_kinds import COLOUR_ONLY, KINDS
from convcraft.data.preprocess import Preprocess

SHAPES = {"28x28x1": (28, 28, 1, 128), "32x32x3": (32, 32, 3, 128), "224x224x3": (224, 224, 3, 16)}  # and batch size
ROUNDS, ROUND_SECONDS = 5, 0.06
NUM_CLASSES = 10


def torchvision_transforms(side: int) -> dict[str, list[v2.Transform]]:
    """Per kind the transforms on uint8; noise and erasing on float32 (see `per_image`)."""
    padding, bilinear = max(1, side // 8), v2.InterpolationMode.BILINEAR
    return {
        "none": [],
        "resized crop": [v2.RandomResizedCrop(side, scale=(0.35, 1.0))],
        "padded crop": [v2.RandomCrop(side, padding=padding)],
        "translation": [v2.RandomAffine(0, translate=(0.15, 0.15))],
        "shear": [v2.RandomAffine(0, shear=20, interpolation=bilinear)],
        "rotation": [v2.RandomRotation(15, interpolation=bilinear)],
        "scale": [v2.RandomAffine(0, scale=(0.75, 1.25), interpolation=bilinear)],
        "horizontal flip": [v2.RandomHorizontalFlip()],
        "vertical flip": [v2.RandomVerticalFlip()],
        "TrivialAugment": [v2.TrivialAugmentWide()],
        "RandAugment": [v2.RandAugment()],
        "brightness": [v2.ColorJitter(brightness=0.4)],
        "contrast": [v2.ColorJitter(contrast=0.6)],
        "saturation": [v2.ColorJitter(saturation=0.8)],
        "hue": [v2.ColorJitter(hue=0.1)],
        "noise": [v2.GaussianNoise(sigma=0.06)],
        "erasing": [v2.RandomErasing(p=0.5)],
        "MixUp": [v2.MixUp(alpha=0.8, num_classes=NUM_CLASSES)],
        "CutMix": [v2.CutMix(alpha=1.0, num_classes=NUM_CLASSES)],
    }


def per_image(name: str, changes: Sequence[v2.Transform], contract: Preprocess) -> Callable[[Tensor, Tensor], Any]:
    """torchvision's way with a batch: uint8 [B, C, H, W] and targets int64 [B]."""
    to_float, normalise = v2.ToDtype(torch.float32, scale=True), v2.Normalize(contract.mean, contract.std)
    if name in ("MixUp", "CutMix"):
        (mixing,) = changes
        plain = v2.Compose([to_float, normalise])
        return lambda images, targets: mixing(torch.stack([plain(image) for image in images]), targets)
    order = {"noise": [to_float, *changes, normalise], "erasing": [to_float, normalise, *changes]}
    steps = v2.Compose(order.get(name, [*changes, to_float, normalise]))
    return lambda images, _targets: torch.stack([steps(image) for image in images])


def rounds(call: Callable[[], Any]) -> list[float]:
    """Seconds per call of one round: as many calls as fit, at least one."""
    times: list[float] = []
    started = time.process_time()
    while not times or time.process_time() - started < ROUND_SECONDS:
        before = time.process_time()
        call()
        times.append(time.process_time() - before)
    return times


def measure(name: str, config: AugmentConfig, changes: Sequence[v2.Transform], shape: str) -> dict[str, float]:
    height, width, channels, batch = SHAPES[shape]
    contract = Preprocess(height=height, width=width, channels=channels, mean=(0.45,), std=(0.25,))
    random = np.random.default_rng(0)
    pixels = torch.from_numpy(random.integers(0, 256, (batch, height, width, channels), dtype=np.uint8))
    images, targets, ids = pixels.permute(0, 3, 1, 2).contiguous(), torch.arange(batch) % NUM_CLASSES, np.arange(batch)
    augmenter, theirs = Augmenter(config, contract, NUM_CLASSES, 0), per_image(name, changes, contract)
    ours_seconds, their_seconds = [], []
    augmenter(pixels, targets, ids, 0)
    theirs(images[:2], targets[:2])
    for epoch in range(ROUNDS):
        ours_seconds += rounds(lambda epoch=epoch: augmenter(pixels, targets, ids, epoch))
        their_seconds += rounds(lambda: theirs(images, targets))
    ours, other = (batch / statistics.median(seconds) for seconds in (ours_seconds, their_seconds))
    return {"images_per_second": round(ours), "torchvision": round(other), "times_faster": round(ours / other, 1)}


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    results: dict[str, dict[str, dict[str, float]]] = {}
    for shape, (height, _, channels, _) in SHAPES.items():
        transforms = torchvision_transforms(height)
        results[shape] = {"none": measure("none", AugmentConfig(), transforms["none"], shape)}
        for kind in KINDS:
            if channels == 3 or kind.name not in COLOUR_ONLY:
                results[shape][kind.name] = measure(kind.name, kind.shown(height), transforms[kind.name], shape)
        for name, found in results[shape].items():
            print(f"{shape:<10} {name:<16} {found['images_per_second']:>9,} images/s, {found['times_faster']:>5} x")
    write_result(
        "augment",
        {
            "results": results,
            "batch_sizes": {shape: values[3] for shape, values in SHAPES.items()},
            "threads": 1,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "torchvision", "numpy"),
        },
    )


if __name__ == "__main__":
    main()
