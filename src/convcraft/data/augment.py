"""Random changes to whole batches of train images, drawn per (seed, epoch, sample).

Order: move (flip, shift, rotate, scale, crop), light (brightness, contrast), normalise, erase, mix.
B batch, H height, W width, C channels, K classes.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.draws import uniforms
from convcraft.data.preprocess import Preprocess

# Columns of the table of draws: one name per use, so that switching one change on leaves the others' draws alone.
(FLIP_X, FLIP_Y, SHIFT_X, SHIFT_Y, CROP_X, CROP_Y, ANGLE, ZOOM, BRIGHT, CONTRAST) = range(10)
(ERASE, ERASE_AREA, ERASE_ASPECT, ERASE_X, ERASE_Y, MIX) = range(10, 16)
NUM_DRAWS = 16

ERASE_AREA_RANGE = (0.02, 1 / 3)  # share of the image (Zhong et al. 2017, "Random erasing data augmentation")
ERASE_ASPECT_RANGE = (0.3, 1 / 0.3)


class Augmenter:
    """Turns raw pixels into the images that training sees.

    Args:
        config: which changes, how strong.
        preprocess: the contract; gives mean and std.
        num_classes: K, for mixed targets.
        seed: the run's seed.
    """

    def __init__(self, config: AugmentConfig, preprocess: Preprocess, num_classes: int, seed: int) -> None:
        self.config, self.num_classes, self.seed = config, num_classes, seed
        self.mean = torch.tensor(preprocess.mean, dtype=torch.float32).view(-1, 1, 1)
        self.std = torch.tensor(preprocess.std, dtype=torch.float32).view(-1, 1, 1)

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
        draws = torch.from_numpy(uniforms(self.seed, epoch, ids, NUM_DRAWS))  # float64 [B, NUM_DRAWS]
        pixel_sums = pixels.sum(dim=(1, 2, 3))  # whole numbers: the same however many threads add them up
        if config.rotation_degrees or config.scale_range != (1.0, 1.0):
            images = _resample(pixels, draws, config)
        else:
            images = _move_whole_pixels(pixels, draws, config).permute(0, 3, 1, 2).to(torch.float32).div_(255)
        if config.brightness or config.contrast:
            mean_level = pixel_sums.to(torch.float32) / (255 * pixels[0].numel())
            images = _change_light(images, mean_level, draws, config)
        images = images.sub_(self.mean).div_(self.std)
        if config.erasing_probability:
            images = images.masked_fill_(_erased(draws, images.shape[2:], config), 0.0)  # 0 is the mean colour
        if config.mixup_alpha:
            return _mixup(images, targets, draws, config.mixup_alpha, self.num_classes)
        return images, targets


def _signed(draws: Tensor, column: int) -> Tensor:
    """A column of draws as float32 in -1..1."""
    return (draws[:, column] * 2 - 1).to(torch.float32)


def _offsets(draws: Tensor, size: int, shift: int, crop: int, config: AugmentConfig) -> Tensor:
    """By how many whole pixels each window starts off the image, int64 [B]: shift and padded crop together."""
    max_shift = round(config.shift_fraction * size)
    moved = (draws[:, shift] * (2 * max_shift + 1)).long() - max_shift
    cropped = (draws[:, crop] * (2 * config.crop_padding_pixels + 1)).long() - config.crop_padding_pixels
    return moved + cropped


def _move_whole_pixels(pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Flip, shift and crop by whole pixels: uint8 [B, H, W, C] in and out; what comes in at the border is black."""
    batch, height, width, _ = pixels.shape
    rows = torch.arange(height).repeat(batch, 1)  # [B, H]
    cols = torch.arange(width).repeat(batch, 1)  # [B, W]
    if config.vertical_flip:
        rows = torch.where((draws[:, FLIP_Y] < 0.5)[:, None], rows.flip(1), rows)
    if config.horizontal_flip:
        cols = torch.where((draws[:, FLIP_X] < 0.5)[:, None], cols.flip(1), cols)
    rows = rows + _offsets(draws, height, SHIFT_Y, CROP_Y, config)[:, None]
    cols = cols + _offsets(draws, width, SHIFT_X, CROP_X, config)[:, None]
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((cols >= 0) & (cols < width))[:, None, :]  # [B, H, W]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + cols.clamp(0, width - 1)[:, None, :]  # [B, H, W]
    flat += (torch.arange(batch) * height * width)[:, None, None]
    moved = pixels.reshape(batch * height * width, -1)[flat.reshape(-1)].view(pixels.shape)
    return moved * inside[..., None]


def _resample(pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Flip, shift, crop, rotation and scale as one bilinear resampling: float32 [B, C, H, W] in 0..1."""
    batch, height, width, _ = pixels.shape
    angle = _signed(draws, ANGLE) * math.radians(config.rotation_degrees)
    low, high = config.scale_range
    zoom = (low + draws[:, ZOOM] * (high - low)).to(torch.float32)
    flip_x = torch.where(draws[:, FLIP_X] < 0.5, -1.0, 1.0) if config.horizontal_flip else torch.ones(batch)
    flip_y = torch.where(draws[:, FLIP_Y] < 0.5, -1.0, 1.0) if config.vertical_flip else torch.ones(batch)
    reach_x = config.shift_fraction + config.crop_padding_pixels / width
    reach_y = config.shift_fraction + config.crop_padding_pixels / height
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # From output to input place, both axes in -1..1; the aspect keeps a rotation a rotation on oblong images.
    theta = torch.stack(
        [
            torch.stack([flip_x * cos, -flip_y * sin * height / width, 2 * reach_x * _signed(draws, SHIFT_X)], dim=1),
            torch.stack([flip_x * sin * width / height, flip_y * cos, 2 * reach_y * _signed(draws, SHIFT_Y)], dim=1),
        ],
        dim=1,
    )  # [B, 2, 3]
    images = pixels.permute(0, 3, 1, 2).to(torch.float32).div_(255)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return moved.contiguous(memory_format=torch.channels_last)


def _change_light(images: Tensor, mean_level: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Brightness multiplies, contrast stretches about the image's mean level; the result stays in 0..1."""
    bright = 1 + config.brightness * _signed(draws, BRIGHT)
    stretch = 1 + config.contrast * _signed(draws, CONTRAST)
    slope = (bright * stretch)[:, None, None, None]
    offset = (bright * (1 - stretch) * mean_level)[:, None, None, None]
    return images.mul_(slope).add_(offset).clamp_(0, 1)


def _erased(draws: Tensor, size: torch.Size, config: AugmentConfig) -> Tensor:
    """Which pixels random erasing blanks: bool [B, 1, H, W]."""
    height, width = size
    low, high = ERASE_AREA_RANGE
    area = (low + draws[:, ERASE_AREA] * (high - low)) * height * width
    low, high = map(math.log, ERASE_ASPECT_RANGE)
    aspect = torch.exp(low + draws[:, ERASE_ASPECT] * (high - low))
    box_height = (area * aspect).sqrt().round().clamp(1, height)  # [B]
    box_width = (area / aspect).sqrt().round().clamp(1, width)
    top = (draws[:, ERASE_Y] * (height - box_height + 1)).floor()
    left = (draws[:, ERASE_X] * (width - box_width + 1)).floor()
    rows, cols = torch.arange(height), torch.arange(width)
    in_rows = (rows >= top[:, None]) & (rows < (top + box_height)[:, None])  # [B, H]
    in_cols = (cols >= left[:, None]) & (cols < (left + box_width)[:, None])  # [B, W]
    chosen = draws[:, ERASE] < config.erasing_probability
    return (chosen[:, None, None] & in_rows[:, :, None] & in_cols[:, None, :])[:, None]


def _mixup(images: Tensor, targets: Tensor, draws: Tensor, alpha: float, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour in the (already shuffled) batch (Zhang et al. 2018, "mixup").

    Each image draws its own share, at least one half, so that its own label stays the larger part.
    """
    from scipy.special import betaincinv

    share = torch.from_numpy(betaincinv(alpha, alpha, draws[:, MIX].numpy())).to(torch.float32)
    share = torch.maximum(share, 1 - share)
    own = torch.nn.functional.one_hot(targets, num_classes).to(torch.float32)  # [B, K]
    mixed_targets = share[:, None] * own + (1 - share)[:, None] * own.roll(1, 0)
    weight = share[:, None, None, None]
    return images * weight + images.roll(1, 0) * (1 - weight), mixed_targets
