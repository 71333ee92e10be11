"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): the binary version of each, and CIFAR-10 also from Parquet files.

A record is its labels (CIFAR-10: one byte; CIFAR-100: coarse, then fine), then the red, the green and the blue plane of
32 x 32 bytes. The pickled "python version" is never read.
"""

from __future__ import annotations

import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from convcraft.config import DataConfig
from convcraft.data.download import Checksum, content_hash
from convcraft.data.named_idx import DIGIT_NAMES
from convcraft.data.named_set import NamedSet, RemoteFile
from convcraft.data.sample import Finding, Progress, Sample, Source
from convcraft.data.table import find_tables, read_tables
from convcraft.errors import UserError

CIFAR10_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The 100 fine labels in the order of fine_label_names.txt.
_CIFAR100_NAMES = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle "
    "caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant "
    "flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man "
    "maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree "
    "plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper "
    "snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train "
    "trout tulip turtle wardrobe whale willow_tree wolf woman worm"
)
CIFAR100_NAMES = tuple(_CIFAR100_NAMES.split())
_PIXEL_BYTES = 3 * 32 * 32


@dataclass(frozen=True)
class CifarBinary:
    """One of the two sets as its authors give it out.

    batches: {"train": {file: images in it}, "test": ...}.
    label_bytes: before the pixels of a record; the last of them is the label.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    archive: RemoteFile
    folder: str
    batches: Mapping[str, Mapping[str, int]]
    label_bytes: int

    @property
    def images_of(self) -> dict[str, int]:
        return {name: images for files in self.batches.values() for name, images in files.items()}

    @property
    def record_bytes(self) -> int:
        return self.label_bytes + _PIXEL_BYTES


def _archive(name: str, sha256: str, max_bytes: int) -> RemoteFile:
    urls = (f"https://www.cs.toronto.edu/~kriz/{name}", f"https://cave.cs.toronto.edu/kriz/{name}")
    return RemoteFile(name, urls, Checksum("sha256", sha256), max_bytes)


CIFAR10 = CifarBinary(
    "cifar10",
    "60,000 photos of ten classes, 32 x 32 (Krizhevsky 2009)",
    CIFAR10_NAMES,
    # The md5 on the authors' page is c32a1d4ab5d03f1284b67883e8d87530.
    _archive("cifar-10-binary.tar.gz", "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd", 170_052_171),
    "cifar-10-batches-bin",
    {"train": {f"data_batch_{n}.bin": 10_000 for n in range(1, 6)}, "test": {"test_batch.bin": 10_000}},
    label_bytes=1,
)
CIFAR100 = CifarBinary(
    "cifar100",
    "60,000 photos of a hundred classes, 32 x 32 (Krizhevsky 2009)",
    CIFAR100_NAMES,
    # The md5 on the authors' page is 03b5dce01913d631647c71ecec9e9cb8.
    _archive(
        "cifar-100-binary.tar.gz", "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec", 168_513_733
    ),
    "cifar-100-binary",
    {"train": {"train.bin": 50_000}, "test": {"test.bin": 10_000}},
    label_bytes=2,
)

# A JPEG version (quality 75) that goes around as Parquet files; models for the official pixels lose about 10 points.
_CIFAR10_JPEG_SHA256 = {
    "train": "a8bad317e5804082705586fbcf5d6d2f17aa1c3f395e056905a940c0a61a497a",
    "test": "6394757969d51ad8d6239231078b3da11438dcfe943c638801567a67c5e8eb4d",
}

Batches = dict[str, bytes]


def read_cifar(cifar: CifarBinary, folder: Path) -> Source | None:
    """The set from the official archive in a folder, or unpacked there; None where neither is.

    Raises:
        UserError: the archive is another one, or a file is missing or damaged.
    """
    archive = folder / cifar.archive.name
    if archive.is_file():
        if not cifar.archive.checksum.holds(archive):
            raise UserError(
                f"{archive} is not the official archive",
                f"the SHA-256 {cifar.archive.checksum.value}",
                "Remove it to have it downloaded again.",
            )
        return cifar_from_batches(cifar, read_cifar_archive(cifar, archive))
    if all((folder / cifar.folder / name).is_file() for name in cifar.batches["test"]):
        return cifar_from_batches(cifar, read_cifar_folder(cifar, folder / cifar.folder))
    return None


def read_cifar10(folder: Path, config: DataConfig, progress: Progress | None) -> Source | None:
    """CIFAR-10 from the official binary version, else from train and test Parquet files.

    The name of the source says which of them was read: they do not hold the same pixels.
    """
    source = read_cifar(CIFAR10, folder)
    if source is not None:
        return source
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


def read_cifar_archive(cifar: CifarBinary, archive: Path) -> Batches:
    """The batch files in a binary .tar.gz, by name, read into memory.

    Nothing is written to the disk, so no member's path matters; only plain files of the expected names and size count.

    Raises:
        UserError: not a complete archive.
    """
    wanted = {f"{cifar.folder}/{name}": name for name in cifar.images_of}
    batches: Batches = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.get(member.name)
                if name is None or not member.isreg():
                    continue
                stream = tar.extractfile(member)
                assert stream is not None  # regular files have one
                batches[name] = _read_batch(cifar, name, stream, member.size, f"{archive.name}/{name}")
    except (OSError, EOFError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{archive} cannot be read: {error}", "a .tar.gz archive", "Fetch it again.") from error
    return batches


def read_cifar_folder(cifar: CifarBinary, folder: Path) -> Batches:
    """The batch files of an unpacked archive, by name."""
    batches: Batches = {}
    for name in cifar.images_of:
        path = folder / name
        if path.is_file():
            with path.open("rb") as stream:
                batches[name] = _read_batch(cifar, name, stream, path.stat().st_size, str(path))
    return batches


def _read_batch(cifar: CifarBinary, name: str, stream: IO[bytes], size_bytes: int, shown: str) -> bytes:
    expected = cifar.images_of[name] * cifar.record_bytes
    content = stream.read(expected) if size_bytes == expected else b""
    if len(content) != expected:
        raise UserError(f"{shown} has {size_bytes:,} bytes", f"{expected:,} bytes", "Fetch the archive again.")
    return content


def cifar_from_batches(cifar: CifarBinary, batches: Batches) -> Source:
    """The source from all batch files of a binary version.

    Raises:
        UserError: a file is missing, or holds a label that is none.
    """
    missing = [name for name in cifar.images_of if name not in batches]
    if missing:
        raise UserError(f"{cifar.name} without {', '.join(missing)}", "all batch files", "Fetch the archive again.")
    splits = {
        split: [sample for name in files for sample in _batch_samples(cifar, name, batches[name])]
        for split, files in cifar.batches.items()
    }
    return Source(cifar.name, cifar.classes, splits)


def _batch_samples(cifar: CifarBinary, name: str, content: bytes) -> list[Sample]:
    records = np.frombuffer(content, np.uint8).reshape(-1, cifar.record_bytes)
    labels = records[:, cifar.label_bytes - 1]
    if labels.max() >= len(cifar.classes):
        expected = f"labels from 0 to {len(cifar.classes) - 1}"
        raise UserError(f"{name} holds the label {labels.max()}", expected, "Fetch the archive again.")
    planes = records[:, cifar.label_bytes :].reshape(-1, 3, 32, 32)
    images: NDArray[np.uint8] = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))  # [N, 32, 32, 3]
    return [
        Sample(image, int(label), f"{name}#{row}")
        for row, (image, label) in enumerate(zip(images, labels, strict=True))
    ]


def _read_cifar100(folder: Path, config: DataConfig, progress: Progress | None) -> Source | None:
    return read_cifar(CIFAR100, folder)


CIFAR_SETS = (
    NamedSet(CIFAR10.name, CIFAR10.title, CIFAR10.classes, (CIFAR10.archive,), read_cifar10),
    NamedSet(CIFAR100.name, CIFAR100.title, CIFAR100.classes, (CIFAR100.archive,), _read_cifar100),
)
