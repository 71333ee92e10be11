"""The cache of near copies saves the work, and never answers for other pixels or from a damaged file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from convcraft.data import copies, copies_cache
from convcraft.data.copies_cache import remembered_copy_groups
from convcraft.data.sample import Sample
from convcraft.data.scan import Scan, scan_images


def scan_of(seed: int) -> Scan:
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 32, 32), dtype=np.uint8)
    pixels[7] = pixels[3]
    return scan_images([Sample(image, 0, str(index)) for index, image in enumerate(pixels)])


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A cache of its own, all sets worth remembering, and a note of each real comparison."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(copies_cache, "WORTH_REMEMBERING", 0)
    made: list[int] = []
    compare = copies.copy_groups

    def counted(thumbnails, digests, *, progress=None):  # type: ignore[no-untyped-def]
        made.append(len(digests))
        return compare(thumbnails, digests, progress=progress)

    monkeypatch.setattr(copies, "copy_groups", counted)
    return made


def test_the_same_pixels_are_compared_once(calls: list[int]) -> None:
    first, again = remembered_copy_groups(scan_of(0)), remembered_copy_groups(scan_of(0))
    assert calls == [30]
    np.testing.assert_array_equal(first, again)
    assert first[7] == 3
    remembered_copy_groups(scan_of(1))
    assert calls == [30, 30]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY broken", None])
def test_a_damaged_cache_is_not_believed(calls: list[int], tmp_path: Path, content: bytes | None) -> None:
    expected = remembered_copy_groups(scan_of(0))
    (file,) = (tmp_path / "convcraft" / "copies").glob("*.npy")
    if content is None:
        np.save(file, np.full(30, 29))  # right shape, impossible groups
    else:
        file.write_bytes(content)
    np.testing.assert_array_equal(remembered_copy_groups(scan_of(0)), expected)
    assert len(calls) == 2
