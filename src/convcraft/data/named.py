"""Named data sets: digits, MNIST and CIFAR-10, each with its classes, its files, their checksums and its reader.

Files are looked for in data.data_dir, in $CONVCRAFT_DATA and in the user's cache, each time in a folder of the set's
name and in the folder itself, and downloaded to the cache when they are nowhere. Nothing is ever unpickled.
"""

from __future__ import annotations

import os
import sys
import tarfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from convcraft.config import DataConfig
from convcraft.data.download import Checksum, content_hash, download
from convcraft.data.idx import find_idx_files, read_idx_folder
from convcraft.data.sample import ALL, Finding, Progress, Sample, Source
from convcraft.data.table import find_tables, read_tables
from convcraft.errors import UserError

DATA_VARIABLE = "CONVCRAFT_DATA"
DIGIT_NAMES = tuple(str(digit) for digit in range(10))
CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a named set: where it is to be had, and what its content must hash to."""

    name: str
    urls: tuple[str, ...]
    checksum: Checksum
    max_bytes: int


@dataclass(frozen=True)
class NamedSet:
    """A data set that can be asked for by name.

    read: the set from a folder, or None where its files are not in it; a UserError where they are not what they say.
    """

    name: str
    title: str  # what it is, whose it is
    classes: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    read: Callable[[Path, DataConfig, Progress | None], Source | None]


# digits -----------------------------------------------------------------------------------------------------------


def read_digits() -> Source:
    """The 1,797 scanned digits of 8 x 8 pixels that come with scikit-learn (Alpaydin and Kaynak 1998); no splits.

    Values 0..16 become round(v * 255 / 16).
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        fix = "Install the training extra: pip install 'convcraft[train]'."
        raise UserError("scikit-learn is not installed", "scikit-learn, which holds the digits", fix) from error
    digits = load_digits()
    images = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    samples = [
        Sample(image, int(target), f"digits#{row}")
        for row, (image, target) in enumerate(zip(images, digits.target, strict=True))
    ]
    return Source("digits", DIGIT_NAMES, {ALL: samples})


# MNIST ------------------------------------------------------------------------------------------------------------

_MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
# Of the unpacked files: mirrors pack the same content into different .gz files.
_MNIST_UNPACKED_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_MNIST_MAX_BYTES = 64 << 20


def read_mnist(folder: Path, config: DataConfig, progress: Progress | None) -> Source | None:
    """MNIST from its four IDX files, packed or not, after their content was checked; None where they are not there."""
    files = find_idx_files(folder)
    paths = {kind: files.get(split, {}).get(kind[1]) for split in ("train", "test") for kind in _MNIST_KINDS[split]}
    if any(path is None for path in paths.values()):
        return None
    for (stem, _), path in paths.items():
        assert path is not None
        unpacked = path.suffix == ".gz"
        if content_hash(path, unpacked=unpacked, max_bytes=_MNIST_MAX_BYTES) != _MNIST_UNPACKED_SHA256[stem]:
            raise UserError(
                f"{path} is not the file {stem} of MNIST",
                f"content with the SHA-256 {_MNIST_UNPACKED_SHA256[stem]}",
                f"Remove it to have it downloaded, or give {folder} as DATA to read other IDX files.",
            )
    return read_idx_folder(folder, name="mnist", class_names=dict(enumerate(DIGIT_NAMES)))


_MNIST_KINDS = {
    "train": (("train-images-idx3-ubyte", "images"), ("train-labels-idx1-ubyte", "labels")),
    "test": (("t10k-images-idx3-ubyte", "images"), ("t10k-labels-idx1-ubyte", "labels")),
}

# CIFAR-10 ---------------------------------------------------------------------------------------------------------

_CIFAR10_ARCHIVE = RemoteFile(
    "cifar-10-binary.tar.gz",
    (
        "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        "https://cave.cs.toronto.edu/kriz/cifar-10-binary.tar.gz",
    ),
    # The md5 on the authors' page is c32a1d4ab5d03f1284b67883e8d87530.
    Checksum("sha256", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"),
    max_bytes=170_052_171,
)
_CIFAR10_FOLDER = "cifar-10-batches-bin"
_CIFAR10_BATCHES = {"train": tuple(f"data_batch_{n}.bin" for n in range(1, 6)), "test": ("test_batch.bin",)}
_CIFAR10_BATCH_IMAGES = 10_000
_RECORD_BYTES = 1 + 3 * 32 * 32  # label, then the red, green and blue planes
# A JPEG version (quality 75) that goes around as Parquet files; models for the official pixels lose about 10 points.
_CIFAR10_JPEG_SHA256 = {
    "train": "a8bad317e5804082705586fbcf5d6d2f17aa1c3f395e056905a940c0a61a497a",
    "test": "6394757969d51ad8d6239231078b3da11438dcfe943c638801567a67c5e8eb4d",
}


def read_cifar10(folder: Path, config: DataConfig, progress: Progress | None) -> Source | None:
    """CIFAR-10 from the official binary version (archive or unpacked), else from train and test Parquet files.

    The name of the source says which of them was read: they do not hold the same pixels.
    """
    archive = folder / _CIFAR10_ARCHIVE.name
    if archive.is_file():
        if not _CIFAR10_ARCHIVE.checksum.holds(archive):
            raise UserError(
                f"{archive} is not the official archive",
                f"the SHA-256 {_CIFAR10_ARCHIVE.checksum.value}",
                "Remove it to have it downloaded again.",
            )
        return cifar10_from_batches(read_cifar_archive(archive))
    if (folder / _CIFAR10_FOLDER / "test_batch.bin").is_file():
        return cifar10_from_batches(read_cifar_folder(folder / _CIFAR10_FOLDER))
    tables = {split: paths for split, paths in find_tables(folder).items() if paths[0].suffix == ".parquet"}
    if not {"train", "test"} <= tables.keys():
        return None
    return _cifar10_from_parquet({split: tables[split] for split in ("train", "test")}, config, progress)


def _cifar10_from_parquet(tables: Mapping[str, list[Path]], config: DataConfig, progress: Progress | None) -> Source:
    source = read_tables(tables, "cifar10 (parquet)", config, progress)
    if len(source.classes) != len(CIFAR10_NAMES):
        raise UserError(
            f"{tables['train'][0].parent} has {len(source.classes)} classes: {', '.join(source.classes)}",
            "the ten classes of CIFAR-10",
            "Give the folder itself as DATA to read another set.",
        )
    if source.classes not in (CIFAR10_NAMES, DIGIT_NAMES):
        raise UserError(
            f"classes {', '.join(source.classes)}", f"classes {', '.join(CIFAR10_NAMES)}", "Check the Parquet files."
        )
    name, findings = source.name, source.findings
    if all(content_hash(tables[split][0]) == value for split, value in _CIFAR10_JPEG_SHA256.items()):
        name = "cifar10 (parquet, JPEG re-encoded, not the official pixels)"
        message = "These are JPEG re-encodings of CIFAR-10: published figures do not apply to them."
        findings += (Finding("settings", "info", (), message, "Compare only with results on the same files."),)
    return Source(name, CIFAR10_NAMES, source.splits, findings)


Batches = dict[str, bytes]


def read_cifar_archive(archive: Path, batch_images: int = _CIFAR10_BATCH_IMAGES) -> Batches:
    """The batch files in a cifar-10-binary.tar.gz, by name, read into memory.

    Nothing is written to the disk, so no member's path matters; only plain files of the expected names and size count.

    Raises:
        UserError: not a complete archive.
    """
    wanted = {f"{_CIFAR10_FOLDER}/{name}": name for names in _CIFAR10_BATCHES.values() for name in names}
    batches: Batches = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is None or not member.isreg():
                    continue
                stream = tar.extractfile(member)
                assert stream is not None  # regular files have one
                batches[name] = _read_batch(stream, member.size, batch_images, f"{archive.name}/{name}")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive} cannot be read: {error}", "a .tar.gz archive", "Fetch it again.") from error
    return batches


def read_cifar_folder(folder: Path, batch_images: int = _CIFAR10_BATCH_IMAGES) -> Batches:
    """The batch files of an unpacked archive, by name."""
    batches: Batches = {}
    for names in _CIFAR10_BATCHES.values():
        for name in names:
            path = folder / name
            if path.is_file():
                with path.open("rb") as stream:
                    batches[name] = _read_batch(stream, path.stat().st_size, batch_images, str(path))
    return batches


def _read_batch(stream: IO[bytes], size_bytes: int, batch_images: int, name: str) -> bytes:
    expected = batch_images * _RECORD_BYTES
    content = stream.read(expected) if size_bytes == expected else b""
    if len(content) != expected:
        raise UserError(f"{name} has {size_bytes:,} bytes", f"{expected:,} bytes", "Fetch the archive again.")
    return content


def cifar10_from_batches(batches: Batches) -> Source:
    """The source from the six batch files of the binary version.

    Raises:
        UserError: a file is missing, or holds a label above 9.
    """
    missing = [name for names in _CIFAR10_BATCHES.values() for name in names if name not in batches]
    if missing:
        raise UserError(f"CIFAR-10 without {', '.join(missing)}", "all six batch files", "Fetch the archive again.")
    splits = {
        split: [sample for name in names for sample in _batch_samples(name, batches[name])]
        for split, names in _CIFAR10_BATCHES.items()
    }
    return Source("cifar10", CIFAR10_NAMES, splits)


def _batch_samples(name: str, content: bytes) -> list[Sample]:
    records = np.frombuffer(content, np.uint8).reshape(-1, _RECORD_BYTES)
    labels = records[:, 0]
    if labels.max() >= len(CIFAR10_NAMES):
        raise UserError(f"{name} holds the label {labels.max()}", "labels from 0 to 9", "Fetch the archive again.")
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    images: NDArray[np.uint8] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))  # [N, 32, 32, 3]
    return [
        Sample(image, int(label), f"{name}#{row}")
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


# The registry -----------------------------------------------------------------------------------------------------

NAMED_SETS: Mapping[str, NamedSet] = {
    named.name: named
    for named in (
        NamedSet(
            "digits",
            "1,797 scanned digits, 8 x 8 (Alpaydin and Kaynak 1998), part of scikit-learn",
            DIGIT_NAMES,
            (),
            lambda folder, config, progress: read_digits(),
        ),
        NamedSet(
            "mnist",
            "70,000 handwritten digits, 28 x 28 (LeCun, Cortes and Burges)",
            DIGIT_NAMES,
            tuple(
                RemoteFile(
                    f"{stem}.gz",
                    tuple(f"{mirror}{stem}.gz" for mirror in _MNIST_MIRRORS),
                    Checksum("sha256", value, unpacked=True, max_unpacked_bytes=_MNIST_MAX_BYTES),
                    max_bytes=16 << 20,
                )
                for stem, value in _MNIST_UNPACKED_SHA256.items()
            ),
            read_mnist,
        ),
        NamedSet(
            "cifar10",
            "60,000 photos of ten classes, 32 x 32 (Krizhevsky 2009)",
            CIFAR10_NAMES,
            (_CIFAR10_ARCHIVE,),
            read_cifar10,
        ),
    )
}


def user_cache_dir() -> Path:
    """Where downloads are kept, as is usual on this platform."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "convcraft" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "convcraft"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convcraft"


def search_places(name: str, config: DataConfig) -> list[Path]:
    """The folders in which the files of a named set may lie, in the order in which they are looked at."""
    tops = [config.data_dir, os.environ.get(DATA_VARIABLE), str(user_cache_dir())]
    places = [place for top in tops if top for place in (Path(top).expanduser() / name, Path(top).expanduser())]
    return list(dict.fromkeys(places))


def open_named(named: NamedSet, config: DataConfig, progress: Progress | None = None) -> Source:
    """Read a named set from where it lies, after a download to the user's cache if need be.

    Raises:
        UserError: it is nowhere and cannot be downloaded; the message names every place that was looked at, why it did
            not do, and the files that are wanted.
    """
    if not named.files:
        return _required(named.read(Path(), config, progress))
    looked_at: list[str] = []
    for place in search_places(named.name, config):
        try:
            source = named.read(place, config, progress) if place.is_dir() else None
        except UserError as error:
            looked_at.append(f"{place} ({error.received})")
            continue
        if source is not None:
            return source
        looked_at.append(f"{place} (not there)")
    cache = user_cache_dir() / named.name
    wanted = ", ".join(file.name for file in named.files)
    try:
        for file in named.files:
            download(file.urls, cache / file.name, checksum=file.checksum, max_bytes=file.max_bytes, progress=progress)
    except UserError as error:
        raise UserError(
            f"{named.name} is in none of {'; '.join(looked_at)}, and {error.received}",
            f"the files {wanted}",
            f"Put them into {cache}, or into any folder and name that with --data-dir or ${DATA_VARIABLE}.",
        ) from error
    return _required(named.read(cache, config, progress))


def _required(source: Source | None) -> Source:
    assert source is not None, "the files of a named set were all there"
    return source
