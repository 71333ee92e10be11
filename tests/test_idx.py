"""IDX files: read as written, and never believed further than their bytes go."""

from __future__ import annotations

import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from convcraft.data.idx import find_idx_files, read_idx, read_idx_folder
from convcraft.errors import UserError


def idx_bytes(array: NDArray[np.uint8]) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def some_images(count: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, 4, 5), dtype=np.uint8)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_round_trip(tmp_path: Path, pack) -> None:  # type: ignore[no-untyped-def]
    images = some_images(7)
    path = tmp_path / "some.idx"
    path.write_bytes(pack(idx_bytes(images)))
    np.testing.assert_array_equal(read_idx(path), images)


@pytest.mark.parametrize("packed", [False, True])
def test_every_cut_is_noticed(tmp_path: Path, packed: bool) -> None:
    content = idx_bytes(some_images(2))
    content = gzip.compress(content, mtime=0) if packed else content
    path = tmp_path / "cut"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            read_idx(path)


def test_what_is_not_idx(tmp_path: Path) -> None:
    good = idx_bytes(some_images(2))
    path = tmp_path / "bad"
    for content in (b"\x89PNG" + good, b"\0\0\x0d\x03" + good[4:], b"\0\0\x08\0" + good[4:], good + b"x", b""):
        path.write_bytes(content)
        with pytest.raises(UserError):
            read_idx(path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    header = bytes([0, 0, 8, 3]) + struct.pack(">3I", 60_000, 28, 28)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(header + bytes(200 << 20), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(UserError, match="goes on after"):
        read_idx(path)
    with pytest.raises(UserError, match="at most 1,000"):
        read_idx(path, max_bytes=1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 60 << 20  # the 47 MB that the header states, not the 200 MB that follow
    path.write_bytes(bytes([0, 0, 8, 4]) + b"\xff" * 16)
    with pytest.raises(UserError, match="bytes of values"):
        read_idx(path)


def plant_set(folder: Path, labels: list[int], names: tuple[str, str] = ("train", "t10k")) -> None:
    for name in names:
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx_bytes(some_images(len(labels))))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(idx_bytes(np.array(labels, np.uint8))),
        )


def test_folder(tmp_path: Path) -> None:
    plant_set(tmp_path, [3, 11, 3, 7])
    source = read_idx_folder(tmp_path)
    assert source.classes == ("3", "7", "11")
    assert list(source.splits) == ["train", "test"]
    assert [s.target for s in source.splits["test"]] == [0, 2, 0, 1]
    assert source.splits["test"][2].source == "t10k-images-idx3-ubyte#2"
    np.testing.assert_array_equal(source.splits["train"][1].image, some_images(4)[1])


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    plant_set(tmp_path, [0, 1, 2])
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx_bytes(some_images(2)))
    with pytest.raises(UserError, match=r"2 images, .* 3 labels"):
        read_idx_folder(tmp_path)
    (tmp_path / "train-images-idx3-ubyte").unlink()
    with pytest.raises(UserError, match="no images"):
        read_idx_folder(tmp_path)


def test_mirror_spelling_is_found(tmp_path: Path) -> None:
    (tmp_path / "train-images.idx3-ubyte").write_bytes(b"")
    assert list(find_idx_files(tmp_path)) == ["train"]


def test_real_mnist(data_dir: Path) -> None:
    source = read_idx_folder(data_dir / "mnist")
    assert source.classes == tuple("0123456789")
    counts = np.bincount([s.target for s in source.splits["test"]])
    assert counts.tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert len(source.splits["train"]) == 60_000
    assert np.shape(source.splits["train"][0].image) == (28, 28)
