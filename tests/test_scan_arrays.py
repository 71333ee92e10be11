"""Arrays looked at together give bit for bit what Pillow gives for each alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from convcraft.data import scan_arrays
from convcraft.data.sample import Sample
from convcraft.data.scan import scan_images
from convcraft.data.scan_arrays import runs_of_one_shape, thumbnails_of

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "size", [(28, 28), (32, 32), (8, 8), (33, 31), (224, 100), (1, 1), (32, 57), (97, 32), (500, 3)]
)
def test_thumbnails_are_those_of_pillow(size: tuple[int, int], channels: int) -> None:
    stack = RNG.integers(0, 256, (7, *size, channels), dtype=np.uint8)
    found = thumbnails_of(stack, 32)
    for image, thumbnail in zip(stack, found, strict=True):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        alone = np.asarray(picture.resize((32, 32), Image.Resampling.BOX)).reshape(32, 32, channels)
        np.testing.assert_array_equal(thumbnail, alone)


def test_a_side_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="power of two"):
        thumbnails_of(np.zeros((2, 8, 8, 1), np.uint8), 24)


def test_a_mixed_set_is_scanned_as_one_by_one() -> None:
    shapes = [
        (28, 28),
        (28, 28),
        (28, 28),
        (28, 28, 1),
        (28, 28, 3),
        (28, 28, 3),
        (9, 28),
        (28, 28),
        (0, 4),
        (28, 28, 2),
    ]
    arrays = [RNG.integers(0, 256, shape, dtype=np.uint8) for shape in (*shapes, (28, 28, 2), (28, 28), (28, 28))]
    arrays.append(np.asfortranarray(arrays[0]))
    samples = [Sample(array, 0, str(number)) for number, array in enumerate(arrays)]
    together = scan_images(samples)
    for number, sample in enumerate(samples):
        alone = scan_images([sample])
        assert together.facts[number] == alone.facts[0]
        assert together.digests[number] == alone.digests[0]
        np.testing.assert_array_equal(together.thumbnails[number], alone.thumbnails[0])
    assert together.usable.sum() == len(arrays) - 3


def test_large_arrays_are_not_copied_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan_arrays, "STACK_BYTES", 250)
    samples = [Sample(np.zeros((10, 10), np.uint8), 0, "") for _ in range(5)]
    assert list(runs_of_one_shape(samples, 0, 5)) == [(0, 2), (2, 4), (4, 5)]
