"""What a person could see of images without knowing what they show: light, contrast, sharpness, colour, size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.images import BadImage, decode
from convcraft.data.sample import Sample

LONGEST_SIDE_PIXELS = 256  # pictures are reduced to this first, so that sharpness means the same for all sizes

Floats = NDArray[np.float64]


def image_statistics(samples: Sequence[Sample]) -> dict[str, Floats]:
    """Statistics of the pictures as they are stored, float64 [N] each; unreadable ones are left out.

    Returns:
        "brightness" and "contrast": mean and standard deviation of luma, 0..1. "sharpness": mean absolute second
        difference of luma, 0..1. "saturation": mean of the largest minus the smallest channel, 0..1. "width" and
        "height": in pixels. "width / height".
    """
    rows = [_of_picture(picture) for sample in samples if (picture := _picture(sample)) is not None]
    names = ("brightness", "contrast", "sharpness", "saturation", "width", "height", "width / height")
    columns = np.array(rows, np.float64).reshape(-1, len(names)).T
    return dict(zip(names, columns, strict=True))


def image_facts(samples: Sequence[Sample]) -> dict[str, Floats]:
    """What results can be sliced by, float64 [N] each, in the order of the samples; NaN for an unreadable picture.

    Returns:
        "width" and "height": in pixels, as stored. "brightness" and "contrast": as in `image_statistics`. "blur":
        variance of luma's Laplacian (four neighbours), low where the picture is blurred. "colourfulness": 0 for grey.

    Source: blur: Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000; colourfulness: Hasler
    and Süsstrunk, "Measuring colourfulness in natural images", 2003, eq. 9. Both of values 0..1 instead of 0..255.
    """
    names = ("width", "height", "brightness", "contrast", "blur", "colourfulness")
    rows = [[np.nan] * len(names) if (picture := _picture(sample)) is None else _facts(picture) for sample in samples]
    return dict(zip(names, np.array(rows, np.float64).reshape(-1, len(names)).T, strict=True))


def _facts(picture: Image.Image) -> list[float]:
    pixels, luma = _reduced(picture)
    blur = 0.0
    if min(luma.shape) > 2:
        inner = luma[1:-1, 1:-1]
        blur = float((luma[:-2, 1:-1] + luma[2:, 1:-1] + luma[1:-1, :-2] + luma[1:-1, 2:] - 4 * inner).var())
    colour = 0.0
    if pixels.ndim == 3:
        red, green, blue = np.moveaxis(pixels, 2, 0)
        across = np.stack([red - green, (red + green) / 2 - blue])  # opponent colours, [2, H, W]
        spread, offset = across.var(axis=(1, 2)).sum(), (across.mean(axis=(1, 2)) ** 2).sum()
        colour = float(np.sqrt(spread) + 0.3 * np.sqrt(offset))
    return [*picture.size, float(luma.mean()), float(luma.std()), blur, colour]


def _picture(sample: Sample) -> Image.Image | None:
    try:
        return decode(sample.image).image
    except BadImage:  # the scan has named it
        return None


def _of_picture(picture: Image.Image) -> tuple[float, ...]:
    width, height = picture.size
    pixels, luma = _reduced(picture)
    saturation = 0.0 if pixels.ndim == 2 else float((pixels.max(axis=2) - pixels.min(axis=2)).mean())
    bends = [np.abs(np.diff(luma, 2, axis=axis)).mean() for axis in (0, 1) if luma.shape[axis] > 2]
    sharpness = float(np.mean(bends)) if bends else 0.0
    return float(luma.mean()), float(luma.std()), sharpness, saturation, width, height, width / height


def _reduced(picture: Image.Image) -> tuple[Floats, Floats]:
    """Pixels, 0..1, [H, W] or [H, W, 3], and their luma [H, W]; longer sides are reduced first."""
    if max(picture.size) > LONGEST_SIDE_PIXELS:
        picture = picture.copy()
        picture.thumbnail((LONGEST_SIDE_PIXELS, LONGEST_SIDE_PIXELS), Image.Resampling.BOX)
    pixels = np.asarray(picture, np.float64) / 255
    return pixels, pixels if pixels.ndim == 2 else pixels @ (0.299, 0.587, 0.114)
