"""Which random number of a sample serves which change: one column of the table of draws per use.

Switching one change on leaves the others' draws alone, and a run of an older version is repeated exactly, because a
column never moves: new ones are added behind.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.draws import uniforms

(FLIP_X, FLIP_Y, SHIFT_X, SHIFT_Y, CROP_X, CROP_Y, ANGLE, ZOOM, BRIGHT, CONTRAST) = range(10)
(ERASE, ERASE_AREA, ERASE_ASPECT, ERASE_X, ERASE_Y, MIX) = range(10, 16)
(SHEAR, CROP_AREA, CROP_ASPECT, WINDOW_X, WINDOW_Y, SATURATION, HUE, NOISE) = range(16, 24)
(MIX_KIND, CUT, CUT_X, CUT_Y) = range(24, 28)
POLICY = 32  # from here three columns per operation: which one, how strong, which sign
NUM_DRAWS = POLICY + 3 * 8  # at most eight operations


def draw(config: AugmentConfig, seed: int, epoch: int, ids: NDArray[np.int64]) -> Tensor:
    """The random numbers of a batch: float64 [B, NUM_DRAWS] in [0, 1), on the CPU."""
    draws = uniforms(seed, epoch, ids, NUM_DRAWS)
    if config.horizontal_flip and config.flip_mode == "alternate":
        # Chance decides at epoch 0 alone; half a turn of the same number mirrors an image exactly every other time.
        draws[:, FLIP_X] = (uniforms(seed, 0, ids, FLIP_X + 1)[:, FLIP_X] + 0.5 * (epoch % 2)) % 1
    return torch.from_numpy(draws)


def signed(draws: Tensor, column: int) -> Tensor:
    """A column of draws as float32 [B] in -1..1."""
    return (draws[:, column] * 2 - 1).to(torch.float32)


def between(draws: Tensor, column: int, low: float | Tensor, high: float | Tensor) -> Tensor:
    """A column of draws as float64 [B] in low..high."""
    return low + draws[:, column] * (high - low)
