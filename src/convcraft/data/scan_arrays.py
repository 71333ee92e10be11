"""Many arrays of one shape looked at together: same thumbnails and digests as one by one, in a tenth of the time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from convcraft.data.sample import Sample

STACK_BYTES = 16 << 20  # so much is copied at once


def runs_of_one_shape(samples: Sequence[Sample], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """(first, end) of stretches of samples that can be looked at together: uint8 arrays of one shape; else alone."""
    first = start
    while first < stop:
        image = samples[first].image if samples[first].is_array else None  # others would be read from their file
        end = first + 1
        if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.size:
            last = min(stop, first + max(1, STACK_BYTES // image.nbytes))
            while end < last and samples[end].is_array and _alike(samples[end].image, image):
                end += 1
        yield first, end
        first = end


def _alike(image: object, other: NDArray[np.uint8]) -> bool:
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape == other.shape


def stacked(samples: Sequence[Sample]) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C] of samples that hold arrays of one shape, C = 1 or 3."""
    pixels = np.stack([np.asarray(sample.image) for sample in samples])
    return pixels if pixels.ndim == 4 else pixels[..., np.newaxis]


def thumbnails_of(stack: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Each image resized to side x side, each pixel the mean of its box: uint8 [N, side, side, C].

    The images are put below one another and resized as one tall picture. With a side that is a power of two, the box of
    every output row begins and ends on binary fractions, so no box crosses from one image into the next and Pillow
    computes the very numbers that it computes for each image alone.

    Args:
        stack: uint8 [N, H, W, C], C = 1 or 3.
        side: a power of two.
    """
    count, height, width, channels = stack.shape
    if side & (side - 1):
        raise ValueError(f"side {side} is no power of two")
    if (height, width) == (side, side):
        return stack
    below = stack.reshape(count * height, width, channels)
    tall = Image.fromarray(below[..., 0] if channels == 1 else below)
    small = tall.resize((side, count * side), Image.Resampling.BOX)
    return np.frombuffer(small.tobytes(), np.uint8).reshape(count, side, side, channels)


def pixel_digests(stack: NDArray[np.uint8]) -> list[str]:
    """SHA-256 of mode, size and pixels of each image, as `scan_images` makes it for a decoded picture."""
    _, height, width, channels = stack.shape
    header = hashlib.sha256(f"{'L' if channels == 1 else 'RGB'} {width} {height}\n".encode())
    digests = []
    for image in stack:
        hasher = header.copy()
        hasher.update(image.data)
        digests.append(hasher.hexdigest())
    return digests
