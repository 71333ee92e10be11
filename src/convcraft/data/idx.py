"""IDX files, the format of MNIST (LeCun, Cortes, Burges: yann.lecun.com/exdb/mnist), packed with gzip or not.

A file is: two zero bytes, a type (0x08 is uint8), the number of dimensions, each dimension as a big-endian uint32, then
the values in C order. Everything is checked against the header before it is believed.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from convcraft.data.sample import Sample, Source
from convcraft.errors import UserError

UINT8 = 0x08
MAX_BYTES = 4 << 30  # of unpacked values: a gzip file of 4 MB can claim to unpack to 4 GB
CHUNK_BYTES = 1 << 20
GZIP_MAGIC = b"\x1f\x8b"

_FILE = re.compile(r"(train|t10k|test|val)-(images|labels)[-.]idx\d-ubyte(\.gz)?", re.IGNORECASE)
_SPLITS = {"train": "train", "val": "val", "t10k": "test", "test": "test"}


def read_idx(path: Path, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """The array of one IDX file of uint8 values.

    Memory stays within the size that the header states, and that within max_bytes, whatever the file unpacks to.

    Raises:
        UserError: not an IDX file of uint8, cut short, longer than its header says, or larger than max_bytes.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == GZIP_MAGIC
            file.seek(0)
            if packed:
                with gzip.GzipFile(fileobj=file) as unpacked:
                    return _read_values(unpacked, path, max_bytes)
            return _read_values(file, path, max_bytes)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be read: {error}", "a complete IDX file", "Fetch the file again.") from error


def _read_values(stream: IO[bytes] | gzip.GzipFile, path: Path, max_bytes: int) -> NDArray[np.uint8]:
    shape = _read_header(stream, path)
    size_bytes = 1
    for length in shape:
        size_bytes *= length  # Python integers: no overflow
    if size_bytes > max_bytes:
        raise UserError(
            f"{path} states {size_bytes:,} bytes of values, shape {shape}",
            f"at most {max_bytes:,} bytes",
            "Check that the file is what it should be; convert larger sets to Parquet.",
        )
    values = np.empty(size_bytes, np.uint8)
    filled = 0
    while filled < size_bytes:
        chunk = stream.read(min(CHUNK_BYTES, size_bytes - filled))
        if not chunk:
            raise UserError(
                f"{path} ends after {filled:,} of {size_bytes:,} bytes",
                f"values of shape {shape}, as its header says",
                "The file is cut short: fetch it again.",
            )
        values[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
        filled += len(chunk)
    if stream.read(1):
        raise UserError(f"{path} goes on after its values", f"values of shape {shape} and no more", "Fetch it again.")
    return values.reshape(shape)


def _read_header(stream: IO[bytes] | gzip.GzipFile, path: Path) -> tuple[int, ...]:
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\0\0" or start[2] != UINT8 or not 1 <= start[3] <= 4:
        raise UserError(
            f"{path} begins with {start.hex(' ') or 'nothing'}",
            "00 00 08 and the number of dimensions (1 to 4): an IDX file of uint8 values",
            "Check that the file is an IDX file.",
        )
    dimensions = start[3]
    lengths = stream.read(4 * dimensions)
    if len(lengths) < 4 * dimensions:
        raise UserError(f"{path} ends within its header", "a complete IDX file", "Fetch the file again.")
    return struct.unpack(f">{dimensions}I", lengths)


def find_idx_files(folder: Path) -> dict[str, dict[str, Path]]:
    """{"train": {"images": file, "labels": file}, ...} of the IDX files in a folder; unpacked files before packed."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name, reverse=True):
        match = _FILE.fullmatch(path.name)
        if match and path.is_file():
            found.setdefault(_SPLITS[match[1].lower()], {})[match[2].lower()] = path  # "x" comes last, after "x.gz"
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def read_labelled_images(images_path: Path, labels_path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(images uint8 [N, H, W] or [N, H, W, 3], labels uint8 [N]) of two files that belong together."""
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.ndim != 3 and not (images.ndim == 4 and images.shape[3] == 3):
        raise UserError(f"{images_path} has shape {images.shape}", "images [N, height, width]", "Check the file.")
    if labels.ndim != 1:
        raise UserError(f"{labels_path} has shape {labels.shape}", "labels [N]", "Check the file.")
    if len(images) != len(labels):
        raise UserError(
            f"{images_path.name} has {len(images)} images, {labels_path.name} has {len(labels)} labels",
            "one label for each image",
            "Take both files from the same set.",
        )
    if not images.size:
        raise UserError(f"{images_path} has shape {images.shape}", "at least one image", "Check the file.")
    return images, labels


def read_idx_folder(
    folder: Path,
    *,
    name: str | None = None,
    class_names: Mapping[int, str] | None = None,
    files: Mapping[str, Mapping[str, Path]] | None = None,
) -> Source:
    """Read a folder of IDX files named as those of MNIST.

    Args:
        folder: holds {train,t10k}-{images,labels}-idx?-ubyte, each with or without .gz.
        name: of the source; the folder's by default.
        class_names: of the labels; the label itself by default.
        files: as `find_idx_files` gives them, where the caller has chosen; else those of the folder.

    Raises:
        UserError: a file is missing or damaged.
    """
    files = find_idx_files(folder) if files is None else files
    if not files:
        raise UserError(f"{folder} holds no IDX files", "train-images-idx3-ubyte and its like", "Check the path.")
    arrays = {}
    for split, pair in files.items():
        for kind in ("images", "labels"):
            if kind not in pair:
                there = next(iter(pair.values())).name
                raise UserError(f"{folder} holds {there} but no {kind} for it", "images and labels", "Add the file.")
        arrays[split] = read_labelled_images(pair["images"], pair["labels"])
    numbers = sorted({int(label) for _, labels in arrays.values() for label in np.unique(labels)})
    if class_names is not None:
        unknown = [number for number in numbers if number not in class_names]
        if unknown:
            raise UserError(f"labels {unknown}", f"labels {sorted(class_names)}", "Check the label files.")
        numbers = sorted(class_names)
    index_of = np.zeros(256, np.int64)
    index_of[numbers] = np.arange(len(numbers))
    splits = {
        split: [
            Sample(image, int(target), f"{files[split]['images'].name}#{row}")
            for row, (image, target) in enumerate(zip(images, index_of[labels], strict=True))
        ]
        for split, (images, labels) in arrays.items()
    }
    classes = tuple(class_names[number] if class_names else str(number) for number in numbers)
    return Source(name or folder.name, classes, splits)
