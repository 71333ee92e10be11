"""Random changes to whole batches of train images, drawn per (seed, epoch, sample).

Order: move (`augment_geometry`), policy (`augment_policy`), light, colour and noise (`augment_light`), normalise, erase
and mix (`augment_mix`). B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment_draws import draw
from convcraft.data.augment_geometry import move_whole_pixels, moves, needs_resampling, resample
from convcraft.data.augment_light import add_noise, change_colour, change_light, normalise
from convcraft.data.augment_mix import erase, mix
from convcraft.data.augment_policy import apply_policy
from convcraft.data.preprocess import Preprocess


class Augmenter:
    """Turns raw pixels into the images that training sees, on the device that the pixels are on.

    Args:
        config: which changes, how strong.
        preprocess: the contract; gives mean and std.
        num_classes: K, for mixed targets.
        seed: the run's seed.
    """

    def __init__(self, config: AugmentConfig, preprocess: Preprocess, num_classes: int, seed: int) -> None:
        self.config, self.num_classes, self.seed = config, num_classes, seed
        self.mean = torch.tensor(preprocess.mean, dtype=torch.float32)
        self.std = torch.tensor(preprocess.std, dtype=torch.float32)

    def __call__(self, pixels: Tensor, targets: Tensor, ids: NDArray[np.int64], epoch: int) -> tuple[Tensor, Tensor]:
        """Change and normalise one batch.

        Args:
            pixels: uint8 [B, H, W, C], as the preprocessing contract gives them.
            targets: int64 [B].
            ids: int64 [B], index of each image in the train set.

        Returns:
            images float32 [B, C, H, W], normalised, in channels-last memory; targets int64 [B], or float32 [B, K]
            where images were mixed.
        """
        config = self.config
        draws = draw(config, self.seed, epoch, ids)  # float64 [B, NUM_DRAWS]
        images = normalise(self._change_pixels(pixels, draws), self.mean, self.std)
        if config.erasing_probability:
            images = erase(images, draws, config)
        if config.mixup_alpha or config.cutmix_alpha:
            return mix(images, targets, draws, config, self.num_classes)
        return images, targets

    def _change_pixels(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Everything before normalisation: float32 [B, C, H, W] in 0..1, channels last in memory."""
        config = self.config
        before = pixels  # the image's mean level is that before black came in at a border
        if needs_resampling(config):
            images = resample(pixels, draws, config)
            if config.policy != "none":
                before = pixels = apply_policy(_as_pixels(images), draws, config)
                images = _as_images(pixels)
        else:
            if moves(config):
                pixels = move_whole_pixels(pixels, draws, config)
            if config.policy != "none":
                before = pixels = apply_policy(pixels, draws, config)
            images = _as_images(pixels)
        if config.brightness or config.contrast:
            images = change_light(images, before, draws, config)
        if config.saturation or config.hue:
            images = change_colour(images, draws, config)
        return add_noise(images, draws, config) if config.noise_std else images


def _as_images(pixels: Tensor) -> Tensor:
    """uint8 [B, H, W, C] to float32 [B, C, H, W] in 0..1."""
    return pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)


def _as_pixels(images: Tensor) -> Tensor:
    """float32 [B, C, H, W] in 0..1 to uint8 [B, H, W, C]."""
    return (images * 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
