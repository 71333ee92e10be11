"""Light, form and storage: brightness, contrast, elastic transform, pixelate, JPEG compression."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy.ndimage import correlate1d, map_coordinates

from convcraft.data.corruption_severity import (
    LARGE_PIXELS,
    Constants,
    Corruption,
    Image,
    as_picture,
    as_pixels,
    as_shares,
)

_BOX = PillowImage.Resampling.BOX


def brightness(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """More of HSV's value; hue and saturation stay. Constants: what is added, of 0..1."""
    shares = as_shares(image)
    value = shares.max(axis=2, keepdims=True)
    raised = np.minimum(value + np.float32(constants[0]), 1)
    return as_pixels(np.where(value > 0, shares * (raised / np.maximum(value, 1 / 255)), raised))


def contrast(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Towards the mean of each channel. Constants: what is left of the difference to it."""
    shares = as_shares(image)
    mean = shares.mean(axis=(0, 1), keepdims=True, dtype=np.float64)
    return as_pixels((shares - mean) * constants[0] + mean)


def elastic_transform(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """A random affine map, and a random field of small moves on it (Simard, Steinkraus, Platt 2003).

    Constants, all as shares of the shorter side: strength of the field, sigma that smooths it, moves of the three
    points that fix the affine map. Both maps are read off in one bilinear look-up, the authors' script takes two.
    """
    height, width, channels = image.shape
    side = min(height, width)
    strength, sigma, moves = (share * side for share in constants)
    down, right = np.meshgrid(np.arange(height, dtype=float), np.arange(width, dtype=float), indexing="ij")
    if strength > 0:
        field = random.uniform(-1, 1, (2, height, width))
        down, right = np.stack([down, right]) + strength * _smooth(field, sigma)
    corner, centre = side / 3, np.array([height / 2, width / 2])
    points = centre + corner * np.array([[1, 1], [1, -1], [-1, -1]])
    moved = points + random.uniform(-moves, moves, points.shape)
    affine = np.linalg.solve(np.column_stack([points, np.ones(3)]), moved)  # [3, 2]: where a place's pixel comes from
    places = [down * affine[0, axis] + right * affine[1, axis] + affine[2, axis] for axis in (0, 1)]
    planes = [
        map_coordinates(image[..., c].astype(np.float32), places, order=1, mode="mirror") for c in range(channels)
    ]
    return as_pixels(np.stack(planes, axis=2) / 255)


def _smooth(fields: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Gaussian over three sigma, mirrored at the edges, of [2, H, W]; by matrices, as sigma may be as large as H."""
    for axis in (1, 2):
        matrix = _smoothing_matrix(fields.shape[axis], sigma)
        fields = fields @ matrix.T if axis == 2 else matrix @ fields
    return fields


def _smoothing_matrix(size: int, sigma: float) -> NDArray[np.float64]:
    reach = int(3 * sigma + 0.5)
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-(steps**2) / (2 * max(sigma, 1e-3) ** 2))
    return np.asarray(correlate1d(np.eye(size), weights / weights.sum(), axis=0, mode="reflect"))


def pixelate(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Fewer pixels, enlarged again. Constants: the share of each side's pixels that is left."""
    height, width = image.shape[:2]
    share = constants[0] * min(1.0, LARGE_PIXELS / min(height, width))  # larger photos get larger blocks
    fewer = as_picture(image).resize((max(1, int(width * share)), max(1, int(height * share))), _BOX)
    return np.array(fewer.resize((width, height), _BOX)).reshape(image.shape)


def jpeg_compression(image: Image, constants: Constants, random: np.random.Generator) -> Image:
    """Constants: Pillow's quality, 1 to 95. The last level may differ between versions of libjpeg."""
    stored = io.BytesIO()
    as_picture(image).save(stored, "JPEG", quality=round(constants[0]))
    with PillowImage.open(stored) as picture:
        return np.array(picture).reshape(image.shape)


DIGITAL = (
    Corruption(
        "brightness",
        brightness,
        small=((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        large=((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
    ),
    Corruption(
        "contrast",
        contrast,
        small=((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        large=((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
    ),
    Corruption(
        "elastic_transform",
        elastic_transform,
        small=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
        # The authors give these as shares of 244 pixels, for images of 224.
        large=tuple(
            tuple(share * 244 / 224 for share in shares)
            for shares in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
        ),
    ),
    Corruption(
        "pixelate",
        pixelate,
        small=((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        large=((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
    ),
    Corruption(
        "jpeg_compression",
        jpeg_compression,
        small=((80,), (65,), (58,), (50,), (40,)),
        large=((25,), (18,), (15,), (10,), (7,)),
    ),
)
