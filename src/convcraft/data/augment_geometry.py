"""Changes of place: by whole pixels where that is enough, else flips, crops, turns and leans as one resampling.

What is drawn per image ([B] numbers) is computed on the CPU, and goes to the device of the pixels when it is ready.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from convcraft.config import AugmentConfig
from convcraft.data.augment_draws import (
    ANGLE,
    CROP_AREA,
    CROP_ASPECT,
    CROP_X,
    CROP_Y,
    FLIP_X,
    FLIP_Y,
    SHEAR,
    SHIFT_X,
    SHIFT_Y,
    WINDOW_X,
    WINDOW_Y,
    ZOOM,
    between,
    signed,
)
from convcraft.data.augment_large import is_large, move_slices

WHOLE = (1.0, 1.0)
_VALUES_AT_ONCE = 1 << 19  # large images go in parts that stay in the processor's cache (measured: 1.7 times as fast)


def needs_resampling(config: AugmentConfig) -> bool:
    """Whether pixels land between pixels."""
    unchanged = config.scale_range == WHOLE and config.crop_area_range == WHOLE
    return bool(config.rotation_degrees or config.shear_degrees) or not unchanged


def moves(config: AugmentConfig) -> bool:
    """Whether any change of place is switched on."""
    whole_pixels = config.horizontal_flip or config.vertical_flip or config.crop_padding_pixels or config.shift_fraction
    return bool(whole_pixels) or needs_resampling(config)


# --- by whole pixels ---


def move_whole_pixels(pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """Flip, shift and crop by whole pixels: uint8 [B, H, W, C] in and out; what comes in at the border is black."""
    _, height, width, _ = pixels.shape
    flip_rows = (draws[:, FLIP_Y] < 0.5) & config.vertical_flip  # [B]
    flip_cols = (draws[:, FLIP_X] < 0.5) & config.horizontal_flip
    rows_off = _offsets(draws, height, SHIFT_Y, CROP_Y, config)
    cols_off = _offsets(draws, width, SHIFT_X, CROP_X, config)
    if is_large(pixels, height, width):
        return move_slices(pixels, flip_rows, flip_cols, rows_off, cols_off)
    rows, cols = _places(height, flip_rows, rows_off), _places(width, flip_cols, cols_off)
    rows, cols = (places.to(torch.int32).to(pixels.device) for places in (rows, cols))
    return gather_pixels(pixels, rows[:, :, None], cols[:, None, :])


def _places(size: int, flipped: Tensor, offsets: Tensor) -> Tensor:
    """Which row (or column) of its image each row of a result shows: int64 [B, size]."""
    places = torch.arange(size)
    return torch.where(flipped[:, None], places.flip(0), places) + offsets[:, None]


def _offsets(draws: Tensor, size: int, shift: int, crop: int, config: AugmentConfig) -> Tensor:
    """By how many whole pixels each window starts off the image, int64 [B]: shift and padded crop together."""
    max_shift = round(config.shift_fraction * size)
    moved = (draws[:, shift] * (2 * max_shift + 1)).long() - max_shift
    cropped = (draws[:, crop] * (2 * config.crop_padding_pixels + 1)).long() - config.crop_padding_pixels
    return moved + cropped


def gather_pixels(pixels: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """The pixels at the given places; black where those lie outside.

    Args:
        pixels: uint8 [B, H, W, C].
        rows, cols: int32 (half the time of int64), together broadcast to [B, H, W].
    """
    batch, height, width, channels = pixels.shape
    inside = ((rows >= 0) & (rows < height)) & ((cols >= 0) & (cols < width))  # [B, H, W]
    first = (torch.arange(batch, device=pixels.device, dtype=torch.int32) * height * width)[:, None, None]
    places = torch.where(inside, (rows * width + first) + cols, batch * height * width)
    # The black pixel stands behind the last image. (index_select takes a quarter of the time of pixels[places].)
    listed = torch.cat([pixels.reshape(-1, channels), pixels.new_zeros(1, channels)])
    return listed.index_select(0, places.reshape(-1)).view(pixels.shape)


# --- between pixels ---


def resample(pixels: Tensor, draws: Tensor, config: AugmentConfig) -> Tensor:
    """All changes of place as one bilinear resampling: float32 [B, C, H, W] in 0..1, channels last in memory."""
    batch, height, width, channels = pixels.shape
    theta = input_places(draws, height, width, config).to(pixels.device)
    moved = torch.empty((batch, height, width, channels), device=pixels.device).permute(0, 3, 1, 2)
    step = max(1, _VALUES_AT_ONCE // (height * width * channels))
    for part in (slice(start, start + step) for start in range(0, batch, step)):
        images = pixels[part].permute(0, 3, 1, 2).to(torch.float32).div_(255)
        grid = _grid(theta[part], height, width)
        moved[part] = torch.nn.functional.grid_sample(images, grid, padding_mode="zeros", align_corners=False)
    return moved


def input_places(draws: Tensor, height: int, width: int, config: AugmentConfig) -> Tensor:
    """From a place in the result to its place in the image: float32 [B, 2, 3], both axes in -1..1.

    Read the other way, from image to result: cut the window, shift, shear, turn and zoom, flip.
    """
    angle = signed(draws, ANGLE) * math.radians(config.rotation_degrees)
    low, high = config.scale_range
    zoom = between(draws, ZOOM, low, high).to(torch.float32)
    flip_x = torch.where(draws[:, FLIP_X] < 0.5, -1.0, 1.0) if config.horizontal_flip else torch.ones(len(draws))
    flip_y = torch.where(draws[:, FLIP_Y] < 0.5, -1.0, 1.0) if config.vertical_flip else torch.ones(len(draws))
    reach_x = config.shift_fraction + config.crop_padding_pixels / width
    reach_y = config.shift_fraction + config.crop_padding_pixels / height
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    # The aspect keeps a rotation a rotation on oblong images.
    theta = torch.stack(
        [
            torch.stack([flip_x * cos, -flip_y * sin * height / width, 2 * reach_x * signed(draws, SHIFT_X)], dim=1),
            torch.stack([flip_x * sin * width / height, flip_y * cos, 2 * reach_y * signed(draws, SHIFT_Y)], dim=1),
        ],
        dim=1,
    )  # [B, 2, 3]
    if config.shear_degrees:
        lean = torch.tan(signed(draws, SHEAR) * math.radians(config.shear_degrees))
        theta[:, 0, :2] += (lean * height / width)[:, None] * theta[:, 1, :2]
    if config.crop_area_range != WHOLE:
        share, centre = _windows(draws, height, width, config)
        theta *= share[:, :, None]
        theta[:, :, 2] += centre
    return theta


def _windows(draws: Tensor, height: int, width: int, config: AugmentConfig) -> tuple[Tensor, Tensor]:
    """Random resized crop (Szegedy et al. 2015, "Going deeper with convolutions", section 6).

    Area uniform, aspect uniform in its logarithm, as torchvision draws them; where an aspect would not fit into the
    image, torchvision draws again (up to ten times), and here the range is narrowed to what fits.

    Returns:
        share of width and height, float32 [B, 2] in 0..1; centre of the window, float32 [B, 2] in -1..1.
    """
    area = between(draws, CROP_AREA, *config.crop_area_range)
    fitting = (area.log() + math.log(width / height), math.log(width / height) - area.log())
    low, high = (math.log(limit) for limit in config.crop_aspect_range)
    narrowed = [torch.minimum(torch.clamp(fitting[0], min=limit), fitting[1]) for limit in (low, high)]
    aspect = torch.exp(between(draws, CROP_ASPECT, *narrowed))
    across = (area * aspect * height / width).sqrt().clamp(max=1.0)
    down = (area / aspect * width / height).sqrt().clamp(max=1.0)
    share = torch.stack([across, down], dim=1)
    where = torch.stack([draws[:, WINDOW_X], draws[:, WINDOW_Y]], dim=1) * 2 - 1
    return share.to(torch.float32), (where * (1 - share)).to(torch.float32)


def _grid(theta: Tensor, height: int, width: int) -> Tensor:
    """What torch's affine_grid gives, in a third of its time: float32 [B, H, W, 2].

    Two additions per pixel and axis, without the fused steps of a matrix product: the same in any batch.
    """
    across = torch.linspace(-1, 1, width, device=theta.device) * (width - 1) / width
    down = torch.linspace(-1, 1, height, device=theta.device) * (height - 1) / height
    grid = theta.new_empty((len(theta), height, width, 2))
    for axis in (0, 1):
        by_column = theta[:, axis, 0, None] * across  # [B, W]
        by_row = theta[:, axis, 1, None] * down  # [B, H]
        torch.add(by_column[:, None, :], by_row[:, :, None], out=grid[..., axis])
        grid[..., axis] += theta[:, axis, 2, None, None]
    return grid
