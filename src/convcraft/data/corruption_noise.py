"""Noise: Gaussian, shot (photons), impulse (salt and pepper). Each channel of each pixel is drawn by itself."""

from __future__ import annotations

import numpy as np

from convcraft.data.corruption_severity import Constants, Corruption, Image, as_pixels, as_shares


def gaussian_noise(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Constants: standard deviation, of pixels in 0..1."""
    noise = random.standard_normal(image.shape, dtype=np.float32)
    return as_pixels(as_shares(image) + np.float32(constants[0]) * noise)


def shot_noise(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Constants: photons that make full white; each pixel counts a Poisson number of them."""
    photons = constants[0]
    return as_pixels(random.poisson(as_shares(image) * photons) / photons)


def impulse_noise(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Constants: share of values that become black or white, half each."""
    drawn = random.random(image.shape, dtype=np.float32)
    half = np.float32(constants[0] / 2)
    noisy = image.copy()
    noisy[drawn < half] = 0
    noisy[drawn >= 1 - half] = 255
    return noisy


NOISES = (
    Corruption(
        "gaussian_noise",
        gaussian_noise,
        small=((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
        large=((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
    ),
    Corruption(
        "shot_noise",
        shot_noise,
        small=((500,), (250,), (100,), (75,), (50,)),
        large=((60,), (25,), (12,), (5,), (3,)),
    ),
    Corruption(
        "impulse_noise",
        impulse_noise,
        small=((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        large=((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
    ),
)
