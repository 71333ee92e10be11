"""What a corruption is: a function of one image with constants for five severities, at two sizes of image.

The rule of sizes. The constants of CIFAR-10-C hold for images whose shorter side has up to 32 pixels, those of
ImageNet-C from 224 pixels on; between, each constant moves in a straight line with the logarithm of the shorter side,
from one to the other. Above 224 pixels, lengths in pixels grow with the image, so that the picture suffers alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

SMALL_PIXELS, LARGE_PIXELS = 32, 224  # shorter sides for which the paper's authors published constants
NUM_SEVERITIES = 5

Image = NDArray[np.uint8]  # [H, W, C], C = 1 or 3
Constants = tuple[float, ...]
Apply = Callable[[Image, Constants, np.random.Generator], Image]


@dataclass(frozen=True)
class Corruption:
    """One of the fifteen.

    small, large: constants for severity 1 to 5, of CIFAR-10-C and of ImageNet-C.
    pixel_lengths: places of those constants that are lengths in pixels.
    """

    name: str
    apply: Apply
    small: tuple[Constants, ...]
    large: tuple[Constants, ...]
    pixel_lengths: tuple[int, ...] = field(default=())

    def constants(self, severity: int, shorter_side: int) -> Constants:
        """The constants for images of this size.

        Args:
            severity: 1 to 5.
            shorter_side: of the image, in pixels.
        """
        small, large = self.small[severity - 1], self.large[severity - 1]
        share = math.log(shorter_side / SMALL_PIXELS) / math.log(LARGE_PIXELS / SMALL_PIXELS)
        share = min(max(share, 0.0), 1.0)
        growth = max(1.0, shorter_side / LARGE_PIXELS)
        return tuple(
            ((1 - share) * low + share * high) * (growth if place in self.pixel_lengths else 1.0)
            for place, (low, high) in enumerate(zip(small, large, strict=True))
        )


def as_shares(image: Image) -> NDArray[np.float32]:
    """Pixels as float32 in 0..1."""
    return image.astype(np.float32) / np.float32(255)


def as_pixels(shares: NDArray[np.floating]) -> Image:
    """Values in 0..1 as uint8, to the nearest level (the authors' scripts cut off); what lies outside is clipped."""
    return np.rint(np.clip(shares, 0, 1) * 255).astype(np.uint8)


def as_picture(image: Image) -> PillowImage.Image:
    """The same pixels for Pillow: mode "L" or "RGB"."""
    return PillowImage.fromarray(image[..., 0] if image.shape[2] == 1 else image)
