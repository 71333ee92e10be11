"""TrivialAugment and RandAugment: which operation an image gets, and how strong.

The operations and the ranges of their strength are those of torchvision.transforms.v2 (TrivialAugmentWide and
RandAugment); the draws are ours, a function of (seed, epoch, sample).
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment_draws import POLICY
from convcraft.data.augment_operations import OPERATIONS, apply_operations

NUM_STRENGTHS = 31
SIGNED = torch.tensor(
    [
        name.startswith(("shear", "translate")) or name in ("rotate", "brightness", "color", "contrast", "sharpness")
        for name in OPERATIONS
    ]
)


@functools.cache
def strengths(policy: str, height: int, width: int) -> Tensor:
    """What each strength means for each operation: float64 [14, 31]; zeros where an operation has no strength.

    Sources: Müller and Hutter 2021 (arXiv 2103.10158), table "wide"; Cubuk et al. 2020 (arXiv 1909.13719).
    """
    wide = policy == "trivial_augment"
    factor = 0.99 if wide else 0.9
    largest = {
        "shear_x": 0.99 if wide else 0.3,
        "shear_y": 0.99 if wide else 0.3,
        "translate_x": 32.0 if wide else 150 / 331 * width,
        "translate_y": 32.0 if wide else 150 / 331 * height,
        "rotate": 135.0 if wide else 30.0,
        "brightness": factor,
        "color": factor,
        "contrast": factor,
        "sharpness": factor,
    }
    rows = [torch.linspace(0, largest.get(name, 0.0), NUM_STRENGTHS).to(torch.float64) for name in OPERATIONS]
    lost_bits = torch.arange(NUM_STRENGTHS) / ((NUM_STRENGTHS - 1) / (6 if wide else 4))
    rows[OPERATIONS.index("posterize")] = (8 - lost_bits).round().to(torch.float64)
    rows[OPERATIONS.index("solarize")] = torch.linspace(1, 0, NUM_STRENGTHS).to(torch.float64)
    return torch.stack(rows)


def drawn_operations(draws: Tensor, config: AugmentConfig, height: int, width: int) -> list[tuple[Tensor, Tensor]]:
    """For each operation in turn: positions in OPERATIONS int64 [B], magnitudes float64 [B]."""
    table = strengths(config.policy, height, width)
    trivial = config.policy == "trivial_augment"
    chosen = []
    for number in range(1 if trivial else config.policy_operations):
        which, strength, sign = draws[:, POLICY + 3 * number : POLICY + 3 * number + 3].unbind(1)
        operations = (which * len(OPERATIONS)).long()
        steps = (strength * NUM_STRENGTHS).long() if trivial else torch.full_like(operations, config.policy_strength)
        negative = SIGNED[operations] & (sign < 0.5)
        magnitudes = table[operations, steps]
        chosen.append((operations, torch.where(negative, -magnitudes, magnitudes)))
    return chosen


def apply_policy(pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """One (trivial_augment) or several (rand_augment) operations on each image: uint8 [B, H, W, C] in and out."""
    for operations, magnitudes in drawn_operations(draws, config, pixels.shape[1], pixels.shape[2]):
        pixels = apply_operations(pixels, operations, magnitudes)
    return pixels
