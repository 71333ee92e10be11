"""Pictures that a bundle is tried on before it is used: what was expected of each stands beside it.

By default they are made, not taken from anyone: colour fields and shapes, stored in the ways in which pictures reach a
model: turned by EXIF, grey, CMYK, 16 bits, transparent, palette, large, tiny, long. A wrong step anywhere between file
and logits shows on some of them.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FOLDER = "probes"
EXIF_ORIENTATION = 0x0112
LARGE = (2400, 1800)  # width, height; phones take more, but a bundle should stay small


@dataclass(frozen=True)
class Picture:
    """name: of its file, which says what it is. content: the encoded picture."""

    name: str
    content: bytes


def made_pictures(height: int, width: int) -> tuple[Picture, ...]:
    """Sixteen pictures, always the same for one size of the network's input.

    Args:
        height, width: pixels of the network's input; one picture has just this size.
    """
    makers: dict[str, Callable[[NDArray[np.uint8]], bytes]] = {
        "own_size.png": _png,
        "landscape.jpg": _jpeg,
        "portrait.jpg": _jpeg,
        "exif_turned_right.jpg": lambda pixels: _jpeg(pixels, orientation=6),
        "exif_turned_left.jpg": lambda pixels: _jpeg(pixels, orientation=8),
        "exif_mirrored.jpg": lambda pixels: _jpeg(pixels, orientation=5),
        "grey.jpg": lambda pixels: _jpeg(pixels, mode="L"),
        "grey_16_bit.png": _sixteen_bit,
        "cmyk.jpg": lambda pixels: _jpeg(pixels, mode="CMYK"),
        "alpha.png": _transparent,
        "palette.gif": lambda pixels: _saved(Image.fromarray(pixels).quantize(64), "GIF"),
        "large.jpg": _large,
        "tiny.png": _png,
        "wide.png": _png,
        "tall.webp": lambda pixels: _saved(Image.fromarray(pixels), "WEBP", lossless=True),
        "plain.bmp": lambda pixels: _saved(Image.fromarray(pixels), "BMP"),
    }
    sizes = {
        "own_size.png": (height, width),
        "portrait.jpg": (400, 300),
        "tiny.png": (7, 9),
        "wide.png": (48, 360),
        "tall.webp": (360, 48),
        "plain.bmp": (96, 128),
    }
    return tuple(
        Picture(name, make(drawing(seed, *sizes.get(name, (300, 400)))))
        for seed, (name, make) in enumerate(makers.items())
    )


def drawing(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    """A colour field with discs and stripes, no two sides alike: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    field = np.empty((height, width, 3))
    for channel in range(3):
        across, down, phase = rng.uniform(0.5, 3, 3)
        field[..., channel] = 128 + 90 * np.sin(2 * np.pi * (across * columns + down * rows + phase))
    for _ in range(4):
        top, left, radius = rng.uniform(0.1, 0.9), rng.uniform(0.1, 0.9), rng.uniform(0.05, 0.25)
        field[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] = rng.uniform(0, 255, 3)
    stripes = (np.sin(2 * np.pi * rng.uniform(10, 30) * (columns + 0.3 * rows)) > 0.6) & (rows > rng.uniform(0.5, 0.8))
    field[stripes] = rng.uniform(0, 255, 3)
    return np.clip(field, 0, 255).astype(np.uint8)


def pixels_sha256(pixels: NDArray[np.uint8]) -> str:
    """Of a picture's pixels at the network's size, with their shape."""
    return hashlib.sha256(f"{pixels.shape}".encode() + np.ascontiguousarray(pixels).tobytes()).hexdigest()


def _saved(image: Image.Image, kind: str, **settings: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **settings)
    return stream.getvalue()


def _png(pixels: NDArray[np.uint8]) -> bytes:
    return _saved(Image.fromarray(pixels), "PNG")


def _jpeg(pixels: NDArray[np.uint8], mode: str = "RGB", orientation: int = 1, quality: int = 88) -> bytes:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return _saved(Image.fromarray(pixels).convert(mode), "JPEG", quality=quality, exif=exif)


def _large(pixels: NDArray[np.uint8]) -> bytes:
    return _jpeg(np.array(Image.fromarray(pixels).resize(LARGE, Image.Resampling.BICUBIC)), quality=60)


def _sixteen_bit(pixels: NDArray[np.uint8]) -> bytes:
    fine = pixels[..., 1].astype(np.uint16) * 257 + pixels[..., 0] // 2
    return _saved(Image.fromarray(np.minimum(fine, 65_535).astype(np.uint16)), "PNG")


def _transparent(pixels: NDArray[np.uint8]) -> bytes:
    ramp = np.linspace(0, 255, pixels.shape[1]).astype(np.uint8)
    alpha = np.broadcast_to(ramp[None, :, None], (*pixels.shape[:2], 1))
    return _saved(Image.fromarray(np.concatenate([pixels, alpha], axis=2)), "PNG")
