"""Places after shear, turn, zoom, crop and shift against torchvision and SciPy; windows against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode, functional

from convcraft.config import AugmentConfig
from convcraft.data import augment_draws as columns
from convcraft.data.augment_draws import NUM_DRAWS, draw, signed
from convcraft.data.augment_geometry import _grid, _windows, input_places, resample

IDS = np.arange(40)


def smooth_pixels(height: int, width: int) -> Tensor:
    """uint8 [40, H, W, 1] without sharp edges, so that a small error of place is a small error of value."""
    noise = np.random.default_rng(0).random((40, height, width))
    soft = np.stack([ndimage.gaussian_filter(image, 2) for image in noise])
    return torch.from_numpy((255 * (soft - soft.min()) / np.ptp(soft)).astype(np.uint8))[..., None]


def drawn(config: AugmentConfig) -> Tensor:
    return draw(config, 5, 0, IDS)


@pytest.mark.parametrize("shape", [(32, 32), (24, 36)], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"rotation_degrees": 40.0},
        {"shear_degrees": 35.0},
        {"scale_range": (0.7, 1.4)},
        {"rotation_degrees": 25.0, "shear_degrees": 20.0, "scale_range": (0.8, 1.2)},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_places_are_those_of_torchvisions_affine(settings: dict[str, object], shape: tuple[int, int]) -> None:
    config = AugmentConfig(**settings)  # type: ignore[arg-type]
    pixels, draws = smooth_pixels(*shape), drawn(config)
    ours = resample(pixels, draws, config)
    low, high = config.scale_range
    for index in range(len(IDS)):
        theirs = functional.affine(
            pixels[index].permute(2, 0, 1) / 255,
            angle=-float(signed(draws, columns.ANGLE)[index]) * config.rotation_degrees,
            translate=[0, 0],
            scale=float(low + draws[index, columns.ZOOM] * (high - low)),
            shear=[float(signed(draws, columns.SHEAR)[index]) * config.shear_degrees, 0.0],
            interpolation=InterpolationMode.BILINEAR,
        )
        torch.testing.assert_close(ours[index], theirs, rtol=0, atol=2e-4)


def test_places_are_those_of_scipys_affine_transform() -> None:
    """Window, shift, shear, turn, zoom and flip at once, each place worked out in pixels from the matrix."""
    config = AugmentConfig(
        rotation_degrees=30.0,
        shear_degrees=15.0,
        scale_range=(0.9, 1.3),
        shift_fraction=0.1,
        horizontal_flip=True,
        crop_area_range=(0.4, 0.9),
    )
    height, width = 30, 44
    pixels, draws = smooth_pixels(height, width), drawn(config)
    ours = resample(pixels, draws, config)
    theta = input_places(draws, height, width, config).double().numpy()
    half = np.array([height / 2, width / 2])
    for index in range(len(IDS)):
        linear = theta[index][::-1, 1::-1] * half[:, None] / half  # rows first, in pixels
        offset = theta[index][::-1, 2] * half + (half - 0.5) - linear @ (half - 0.5)
        image = np.pad(pixels[index, ..., 0].numpy() / 255, 1)  # so that the border fades into black as in torch
        theirs = ndimage.affine_transform(image, linear, offset + 1, (height, width), order=1, mode="constant")
        np.testing.assert_allclose(ours[index, 0].numpy(), theirs, rtol=0, atol=5e-4)


def test_a_shear_leans_rows_by_the_tangent_of_the_angle() -> None:
    config = AugmentConfig(shear_degrees=45.0)
    column = torch.zeros(40, 33, 65, 1, dtype=torch.uint8)
    column[:, :, 32] = 255
    leaned = resample(column, drawn(config), config)[:, 0]
    middle = (leaned * torch.arange(65)).sum(2) / leaned.sum(2).clamp(min=1e-6)  # [40, 33]: where the line is
    slope = torch.tan(signed(drawn(config), columns.SHEAR) * math.radians(45))
    expected = 32 - slope[:, None] * (torch.arange(33) - 16)
    torch.testing.assert_close(middle, expected, rtol=0, atol=0.02)


def test_the_grid_is_torchs_affine_grid() -> None:
    generator = torch.Generator().manual_seed(0)
    for height, width in ((8, 8), (28, 28), (33, 20), (1, 7)):
        theta = torch.rand(16, 2, 3, generator=generator) * 2 - 1
        expected = torch.nn.functional.affine_grid(theta, [16, 1, height, width], align_corners=False)
        torch.testing.assert_close(_grid(theta, height, width), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", [(32, 32), (100, 60), (40, 200)], ids=str)
def test_windows_lie_inside_and_have_the_drawn_area_and_aspect(shape: tuple[int, int]) -> None:
    height, width = shape
    config = AugmentConfig(crop_area_range=(0.08, 1.0))
    draws = draw(config, 0, 0, np.arange(4000))
    share, centre = _windows(draws, height, width, config)
    assert (centre.abs() + share <= 1 + 1e-6).all()
    area = share.prod(dim=1)
    aspect = share[:, 0] * width / (share[:, 1] * height)
    expected = 0.08 + draws[:, columns.CROP_AREA] * 0.92
    fits = (aspect >= 0.75 - 1e-4) & (aspect <= 1.3333 + 1e-4)
    torch.testing.assert_close(area[fits].double(), expected[fits], rtol=0, atol=1e-5)
    if height == width:
        assert fits.all()
        small = expected < 0.5  # there every aspect fits
        logs = torch.log(aspect[small])
        assert logs.min() < math.log(0.77)
        assert logs.max() > math.log(1.30)
        assert logs.mean().abs() < 0.02
    else:
        assert fits.float().mean() > 0.2  # a whole oblong image cannot be cut to a square one of the same area


def test_a_window_of_the_whole_area_changes_nothing() -> None:
    config = AugmentConfig(crop_area_range=(0.9999, 1.0))
    pixels = smooth_pixels(32, 32)
    images = resample(pixels, drawn(config), config)
    torch.testing.assert_close(images, pixels.permute(0, 3, 1, 2) / 255, rtol=0, atol=2e-3)


def test_a_window_is_stretched_to_full_size_as_torchvision_stretches_it() -> None:
    config = AugmentConfig(crop_area_range=(0.25, 0.25), crop_aspect_range=(1.0, 1.0))
    pixels = smooth_pixels(32, 32)
    draws = drawn(config)
    draws[:, columns.WINDOW_X], draws[:, columns.WINDOW_Y] = 0.25, 0.75  # windows of 16 pixels at column 4, row 12
    ours = resample(pixels, draws, config)
    theirs = functional.resized_crop(
        pixels.permute(0, 3, 1, 2) / 255, top=12, left=4, height=16, width=16, size=[32, 32], antialias=False
    )
    inner = slice(2, -2)  # at the rim torchvision repeats the window's edge, and here the image goes on
    torch.testing.assert_close(ours[..., inner, inner], theirs[..., inner, inner], rtol=0, atol=1e-5)


def test_number_of_draws_covers_every_column() -> None:
    assert columns.POLICY + 3 * 8 == NUM_DRAWS
