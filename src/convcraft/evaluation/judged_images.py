"""The labelled images that a network is judged on: all of a set, or a stratified sample of it whose size is stated."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcraft.data.corruptions import check_pixels
from convcraft.data.image_set import ImageSet
from convcraft.errors import UserError


@dataclass(frozen=True, eq=False)
class JudgedImages:
    """Pixels as the network's preprocessing gives them, before it normalises.

    pixels: uint8 [N, H, W, C]; targets: int64 [N].
    ids: int64 [N], the images' numbers in their set, from which random changes follow.
    num_available: images of that set.

    Raises:
        UserError: no images, pixels of another kind, or not one target and id per image.
    """

    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    ids: NDArray[np.int64]
    num_available: int

    def __post_init__(self) -> None:
        check_pixels(self.pixels)
        wanted = (len(self.pixels),)
        if not len(self.pixels) or self.targets.shape != wanted or self.ids.shape != wanted:
            received = f"{len(self.pixels)} images, targets {list(self.targets.shape)}, ids {list(self.ids.shape)}"
            raise UserError(received, "at least one image, with one target and id each", "Check the split.")
        if not np.issubdtype(self.targets.dtype, np.integer) or self.targets.min() < 0:
            received = f"targets {self.targets.dtype} from {self.targets.min()}"
            raise UserError(received, "class numbers, whole and from 0 on", "Leave out images without a label.")

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def of(
        cls, pixels: NDArray[np.uint8], targets: NDArray[np.int64], size: int | None = None, seed: int = 0
    ) -> JudgedImages:
        """Of arrays; a sample where `size` is less than their number."""
        check_pixels(pixels)
        if len(targets) != len(pixels):
            raise UserError(f"{len(pixels)} images, {len(targets)} targets", "one target per image", "Check both.")
        ids = stratified_sample(targets, size, seed)
        return cls(pixels[ids], targets[ids], ids, len(pixels))

    @classmethod
    def of_set(cls, images: ImageSet, size: int | None = None, seed: int = 0) -> JudgedImages:
        """Of an image set, of which no more is decoded than the sample."""
        ids = stratified_sample(images.targets, size, seed)
        return cls(images.pixels_of(ids), images.targets[ids], ids, len(images))


def stratified_sample(targets: NDArray[np.int64], size: int | None, seed: int = 0) -> NDArray[np.int64]:
    """Places of a random sample that has each class in proportion, in rising order; all places without a size.

    What whole numbers leave over goes to the largest remainders. With a size of at least the number of classes, each
    class has an image at least.

    Returns: int64 [min(size, N)].

    Raises:
        UserError: a size below 1.
    """
    if size is None or size >= len(targets):
        return np.arange(len(targets), dtype=np.int64)
    if size < 1:
        raise UserError(f"a sample of {size} images", "1 or more", "Leave the size out to take all.")
    classes, counts = np.unique(targets, return_counts=True)
    wanted = counts * (size / len(targets))
    taken = np.floor(wanted).astype(int)
    if size >= len(classes):
        taken = np.maximum(taken, 1)
    while taken.sum() < size:
        taken[int(np.argmax(np.where(taken < counts, wanted - taken, -np.inf)))] += 1
    while taken.sum() > size:
        taken[int(np.argmax(np.where(taken > 1, taken - wanted, -np.inf)))] -= 1
    random = np.random.default_rng([seed, size])
    chosen = [
        random.choice(np.flatnonzero(targets == label), number, replace=False)
        for label, number in zip(classes, taken, strict=True)
    ]
    return np.sort(np.concatenate(chosen)).astype(np.int64)
