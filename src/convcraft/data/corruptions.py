"""The fifteen corruptions of ImageNet-C and CIFAR-10-C, five severities each, for images of any size.

After Hendrycks and Dietterich 2019, "Benchmarking neural network robustness to common corruptions and perturbations",
arXiv:1903.12261, with the constants that the authors published; which of them apply is the rule of
`corruption_severity`. Frost is drawn instead of photographed, ImageMagick and OpenCV are replaced by NumPy, SciPy and
Pillow, and the random numbers are other ones: figures compare within convcraft only, not with published ones.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.data.corruption_blur import BLURS
from convcraft.data.corruption_digital import DIGITAL
from convcraft.data.corruption_noise import NOISES
from convcraft.data.corruption_severity import NUM_SEVERITIES, Corruption
from convcraft.data.corruption_weather import WEATHER
from convcraft.errors import UserError

CORRUPTIONS: dict[str, Corruption] = {
    corruption.name: corruption for corruption in (*NOISES, *BLURS, *WEATHER, *DIGITAL)
}
NAMES = tuple(CORRUPTIONS)
SEVERITIES = tuple(range(1, NUM_SEVERITIES + 1))
Pixels = NDArray[np.uint8]


def corrupt(images: Pixels, name: str, severity: int, seed: int = 0, ids: ArrayLike | None = None) -> Pixels:
    """The images, corrupted; each by random numbers that follow from (seed, its id, name, severity) alone.

    Args:
        images: uint8 [N, H, W, C], C = 1 or 3; left as they are.
        name: one of NAMES.
        severity: 1 to 5.
        seed: 0 or more.
        ids: int [N], each 0 or more: the images' numbers in their set, so that a part of it is corrupted as the whole
            is; 0, 1, 2 ... where None.

    Returns: uint8 [N, H, W, C].

    Raises:
        UserError: another dtype, shape, name or severity.
    """
    numbers = _checked_ids(images, ids)
    corruption = _checked_corruption(name, severity)
    if seed < 0:
        raise UserError(f"seed {seed}", "0 or more", "Give a positive whole number.")
    severity = operator.index(severity)
    constants = corruption.constants(severity, min(images.shape[1:3]))
    corrupted = np.empty_like(images, order="C")
    for place, number in enumerate(numbers):
        random = np.random.default_rng([seed, number, NAMES.index(name), severity])
        corrupted[place] = corruption.apply(images[place], constants, random)
    return corrupted


def check_pixels(images: Pixels) -> None:
    """Raises UserError unless images are uint8 [N, H, W, C] with C = 1 or 3 and sides of at least one pixel."""
    array = isinstance(images, np.ndarray)
    if (
        not array
        or images.dtype != np.uint8
        or images.ndim != 4
        or images.shape[3] not in (1, 3)
        or 0 in images.shape[1:]
    ):
        received = f"images {images.dtype} {list(images.shape)}" if array else f"images of type {type(images).__name__}"
        fix = "Give the pixels before normalising (`ImageSet.pixels_of`), with the channel axis last."
        raise UserError(received, "uint8 [N, H, W, C] with 1 or 3 channels", fix)


def _checked_ids(images: Pixels, ids: ArrayLike | None) -> Sequence[int]:
    check_pixels(images)
    if ids is None:
        return range(len(images))
    numbers = np.asarray(ids)
    if numbers.shape != (len(images),) or not np.issubdtype(numbers.dtype, np.integer) or (numbers < 0).any():
        received = f"ids {numbers.dtype} {list(numbers.shape)}"
        raise UserError(received, f"{len(images)} whole numbers of 0 or more", "Give one id per image.")
    return [int(number) for number in numbers]


def _checked_corruption(name: str, severity: int) -> Corruption:
    if name not in CORRUPTIONS:
        raise UserError(f"corruption {name!r}", "one of " + ", ".join(NAMES), "Check the spelling.")
    if severity not in SEVERITIES:
        raise UserError(f"severity {severity!r}", "1, 2, 3, 4 or 5", "3 is the middle one.")
    return CORRUPTIONS[name]
