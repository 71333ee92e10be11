"""Weather: snow, frost, fog. Frost is of drawn ice (`frost_texture`), where the authors laid photographs over."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from convcraft.data.corruption_blur import convolve, motion_kernel, zoomed
from convcraft.data.corruption_severity import (
    LARGE_PIXELS,
    SMALL_PIXELS,
    Constants,
    Corruption,
    Image,
    as_pixels,
    as_shares,
)
from convcraft.data.frost_texture import NUM_TEXTURES, TEXTURE_PIXELS, frost_texture
from convcraft.data.plasma import plasma

_BILINEAR = PillowImage.Resampling.BILINEAR
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
SMALL_WINDOW_PIXELS = 160  # of frost behind an image of 32 pixels: the authors shrink their photographs to a fifth


def snow(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Flakes that fall roughly downwards, on a paler image.

    Constants: mean and deviation of the noise that flakes are cut from, how much it is enlarged, the level from which
    it is a flake; radius and sigma of the blur by falling, pixels; how much of the image's colour is left.
    """
    mean, deviation, factor, level, radius, sigma, colour_left = constants
    height, width = image.shape[:2]
    noise = random.standard_normal((height, width), dtype=np.float32) * np.float32(deviation) + np.float32(mean)
    flakes = np.asarray(zoomed(PillowImage.fromarray(noise), factor))
    flakes = np.where(flakes < level, np.float32(0), np.minimum(flakes, 1))
    flakes = convolve(flakes[..., None], motion_kernel(radius, sigma, random.uniform(-135, -45)))
    shares = as_shares(image)
    grey = shares if image.shape[2] == 1 else (shares @ _LUMA)[..., None]
    paler = np.float32(colour_left) * shares + np.float32(1 - colour_left) * np.maximum(shares, grey * 1.5 + 0.5)
    return as_pixels(paler + flakes + flakes[::-1, ::-1])


def frost(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """A window of ice, somewhere out of one of a few textures. Constants: share of the image, share of the ice."""
    height, width, channels = image.shape
    texture = frost_texture(int(random.integers(NUM_TEXTURES)))
    shorter = min(height, width)
    share = np.clip(np.log(shorter / SMALL_PIXELS) / np.log(LARGE_PIXELS / SMALL_PIXELS), 0, 1)
    window = (SMALL_WINDOW_PIXELS + float(share) * (LARGE_PIXELS - SMALL_WINDOW_PIXELS)) / shorter
    window = min(window, TEXTURE_PIXELS / max(height, width))  # of the texture, per pixel of the image
    left = random.uniform(0, TEXTURE_PIXELS - window * width)
    top = random.uniform(0, TEXTURE_PIXELS - window * height)
    box = (left, top, min(left + window * width, TEXTURE_PIXELS), min(top + window * height, TEXTURE_PIXELS))
    ice = np.asarray(texture.resize((width, height), _BILINEAR, box), dtype=np.float32) / 255
    if channels == 1:
        ice = (ice @ _LUMA)[..., None]
    return as_pixels(np.float32(constants[0]) * as_shares(image) + np.float32(constants[1]) * ice)


def fog(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Bright clouds, and the contrast behind them lost. Constants: strength, and how smooth the clouds are (1 to 3)."""
    strength, smoothness = constants
    height, width = image.shape[:2]
    shares = as_shares(image)
    clouds = _clouds(height, width, smoothness, random)
    brightest = float(shares.max())
    return as_pixels((shares + strength * clouds[..., None]) * (brightest / (brightest + strength)))


def _clouds(height: int, width: int, smoothness: float, random: np.random.Generator) -> NDArray[np.float64]:
    side = max(2, 1 << (max(height, width) - 1).bit_length())
    return plasma(side, smoothness, random)[:height, :width]


WEATHER = (
    Corruption(
        "snow",
        snow,
        small=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        large=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        pixel_lengths=(2, 4, 5),
    ),
    Corruption(
        "frost",
        frost,
        small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
    ),
    Corruption(
        "fog",
        fog,
        small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
    ),
)
