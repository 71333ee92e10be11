"""MNIST, Fashion-MNIST and Kuzushiji-MNIST: four IDX files each, under the same four names.

So a name says nothing about what a file holds. Its checksum does, and a message says whose file it is instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from convcraft.config import DataConfig
from convcraft.data.download import Checksum
from convcraft.data.idx import find_idx_files, read_idx_folder
from convcraft.data.named_set import NamedSet, RemoteFile
from convcraft.data.sample import Progress, Source
from convcraft.errors import UserError

DIGIT_NAMES = tuple(str(digit) for digit in range(10))
# In the order of github.com/zalandoresearch/fashion-mnist and, as romanised there, github.com/rois-codh/kmnist.
FASHION_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
KMNIST_NAMES = ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo")

MAX_PACKED_BYTES = 32 << 20
MAX_UNPACKED_BYTES = 64 << 20
_SPLIT_OF = {"train": "train", "t10k": "test"}


@dataclass(frozen=True)
class IdxSet:
    """A set of four IDX files.

    sha256: of each file by its name without .gz; of the unpacked content where `unpacked`, else of the .gz file.
    unpacked: mirrors pack the same content into different .gz files, so only the content can be checked. Where a set is
        published as one .gz file with a checksum, that is what is checked, and unpacked files are not taken.
    """

    name: str
    title: str
    classes: tuple[str, ...]
    mirrors: tuple[str, ...]
    sha256: Mapping[str, str]
    unpacked: bool

    def checksum(self, stem: str) -> Checksum:
        return Checksum("sha256", self.sha256[stem], unpacked=self.unpacked, max_unpacked_bytes=MAX_UNPACKED_BYTES)

    def holds(self, path: Path, stem: str) -> bool:
        """Whether a file, packed or not, is this set's file of that name."""
        packed = path.suffix == ".gz"
        if not packed and not self.unpacked:
            return False
        return Checksum("sha256", self.sha256[stem], self.unpacked and packed, MAX_UNPACKED_BYTES).holds(path)


MNIST = IdxSet(
    "mnist",
    "70,000 handwritten digits, 28 x 28 (LeCun, Cortes and Burges)",
    DIGIT_NAMES,
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    {
        "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
    unpacked=True,
)
FASHION_MNIST = IdxSet(
    "fashion-mnist",
    "70,000 photos of clothes, 28 x 28 (Xiao, Rasul and Vollgraf 2017)",
    FASHION_NAMES,
    (
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    # Of the .gz files whose md5 the authors publish (8d4fb7e6..., 25c81989..., bef4ecab..., bb300cfd...).
    {
        "train-images-idx3-ubyte": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train-labels-idx1-ubyte": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "t10k-images-idx3-ubyte": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "t10k-labels-idx1-ubyte": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
    unpacked=False,
)
KMNIST = IdxSet(
    "kmnist",
    "70,000 handwritten kuzushiji characters, 28 x 28 (Clanuwat et al. 2018)",
    KMNIST_NAMES,
    (
        "https://codh.rois.ac.jp/kmnist/dataset/kmnist/",
        "http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    ),
    {
        "train-images-idx3-ubyte": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "train-labels-idx1-ubyte": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "t10k-images-idx3-ubyte": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "t10k-labels-idx1-ubyte": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    },
    unpacked=False,
)
IDX_SETS = (MNIST, FASHION_MNIST, KMNIST)


def read_idx_set(idx_set: IdxSet, folder: Path) -> Source | None:
    """The set from its four files, after each was checked; None where they are not there.

    Raises:
        UserError: a file is another one than its name says; the message names the set that it belongs to, if known.
    """
    paths = {stem: _file_of(idx_set, folder, stem) for stem in idx_set.sha256}
    files: dict[str, dict[str, Path]] = {}
    for stem, path in paths.items():
        if path is None:
            return None
        _refuse_other(idx_set, path, stem)
        split, kind, *_ = stem.split("-")
        files.setdefault(_SPLIT_OF[split], {})[kind] = path
    return read_idx_folder(folder, name=idx_set.name, class_names=dict(enumerate(idx_set.classes)), files=files)


def _file_of(idx_set: IdxSet, folder: Path, stem: str) -> Path | None:
    packed = folder / f"{stem}.gz"
    if not idx_set.unpacked and packed.is_file():
        return packed
    split, kind, *_ = stem.split("-")
    return find_idx_files(folder).get(_SPLIT_OF[split], {}).get(kind)


def _refuse_other(idx_set: IdxSet, path: Path, stem: str) -> None:
    if idx_set.holds(path, stem):
        return
    owner = next((other.name for other in IDX_SETS if other.holds(path, stem)), None)
    if owner is not None:
        what = f"{path} is the file {stem} of {owner}, not of {idx_set.name}: both use the same names"
    elif path.suffix != ".gz" and not idx_set.unpacked:
        what = f"{path} is unpacked, and only the .gz files of {idx_set.name} have a known checksum"
    else:
        what = f"{path} is not the file {stem} of {idx_set.name}"
    content = "content" if idx_set.unpacked else "a .gz file"
    fix = f"Remove it to have {idx_set.name} downloaded, or give {path.parent} as DATA to read other IDX files."
    raise UserError(what, f"{content} with the SHA-256 {idx_set.sha256[stem]}", fix)


def as_named_set(idx_set: IdxSet) -> NamedSet:
    """The entry of the register of named sets."""

    def read(folder: Path, config: DataConfig, progress: Progress | None) -> Source | None:
        return read_idx_set(idx_set, folder)

    files = tuple(
        RemoteFile(
            f"{stem}.gz",
            tuple(f"{mirror}{stem}.gz" for mirror in idx_set.mirrors),
            idx_set.checksum(stem),
            MAX_PACKED_BYTES,
        )
        for stem in idx_set.sha256
    )
    return NamedSet(idx_set.name, idx_set.title, idx_set.classes, files, read)
