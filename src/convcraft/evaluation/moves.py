"""Moves of whole images, uint8 [N, H, W, C] to the same shape: turned, shifted, zoomed, mirrored.

What comes in from outside: "edge" goes on with the border's pixels, "reflect" mirrors the image, "black" is black.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.errors import UserError

FILLS = {"edge": "edge", "reflect": "reflect", "black": "constant"}  # by NumPy's names
_BILINEAR = Image.Resampling.BILINEAR
Pixels = NDArray[np.uint8]


def rotated(images: Pixels, degrees: float, fill: str = "edge") -> Pixels:
    """Turned about the centre, counter-clockwise, bilinear; multiples of 90 degrees move whole pixels of a square."""
    height, width = images.shape[1:3]
    turn = math.radians(degrees)
    cosine, sine = round(math.cos(turn), 12), round(math.sin(turn), 12)
    reach = math.ceil(math.hypot(height, width) / 2 - min(height, width) / 2) + 1
    left, top = width / 2 + reach, height / 2 + reach  # the centre in the wider picture
    # Where the pixel (x, y) of the result comes from; Pillow asks for the centres of pixels.
    matrix = (
        *(cosine, -sine, left - cosine * width / 2 + sine * height / 2),
        *(sine, cosine, top - sine * width / 2 - cosine * height / 2),
    )
    turned = np.empty_like(images, order="C")
    for place, image in enumerate(_wider(images, reach, reach, fill)):
        picture = _picture(image).transform((width, height), Image.Transform.AFFINE, matrix, _BILINEAR)
        turned[place] = np.asarray(picture).reshape(images.shape[1:])
    return turned


def shifted(images: Pixels, down: int, right: int, fill: str = "edge") -> Pixels:
    """Moved by whole pixels; negative numbers move up and left."""
    height, width = images.shape[1:3]
    wider = _wider(images, abs(down), abs(right), fill)
    top, left = abs(down) - down, abs(right) - right
    return np.ascontiguousarray(wider[:, top : top + height, left : left + width])


def scaled(images: Pixels, factor: float, fill: str = "edge") -> Pixels:
    """The content enlarged about the centre (factor above 1) or made smaller, bilinear with antialiasing."""
    if not 0 < factor < math.inf:
        raise UserError(f"factor {factor:g}", "a number above 0", "1 leaves images as they are.")
    corner = 0.5 - 0.5 / factor
    return cropped(images, corner, corner, 1 / factor, fill)


def cropped(images: Pixels, top: float, left: float, share: float, fill: str = "edge") -> Pixels:
    """A window, resized to the full size.

    Args:
        top, left, share: of the window's corner and sides, as shares of the image's; it may reach outside.
    """
    if not 0 < share < math.inf:
        raise UserError(f"a window of {share:g} of the image", "more than 0", "Give a positive share.")
    height, width = images.shape[1:3]
    outside = max(0.0, -top, -left, top + share - 1, left + share - 1)
    rows, columns = math.ceil(outside * height), math.ceil(outside * width)
    x, y = left * width + columns, top * height + rows
    # Sums may be rounded up, beyond the picture.
    box = (x, y, min(x + share * width, width + 2 * columns), min(y + share * height, height + 2 * rows))
    made = np.empty_like(images, order="C")
    for place, image in enumerate(_wider(images, rows, columns, fill)):
        picture = _picture(image).resize((width, height), _BILINEAR, box)
        made[place] = np.asarray(picture).reshape(images.shape[1:])
    return made


def mirrored(images: Pixels) -> Pixels:
    """Left and right exchanged."""
    return np.ascontiguousarray(images[:, :, ::-1])


def _wider(images: Pixels, rows: int, columns: int, fill: str) -> Pixels:
    if fill not in FILLS:
        raise UserError(f"fill {fill!r}", "one of " + ", ".join(FILLS), "edge suits most images.")
    return np.pad(images, ((0, 0), (rows, rows), (columns, columns), (0, 0)), mode=FILLS[fill])  # type: ignore[call-overload]


def _picture(image: Pixels) -> Image.Image:
    return Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
