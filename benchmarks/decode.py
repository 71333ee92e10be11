"""Bar: from JPEG files to what a network sees, images per second and core, beside the textbook way.

    python benchmarks/decode.py                 # hymenoptera and large photos made from it, about two minutes
    python benchmarks/decode.py --rounds 9 --photos 397

The textbook way is a torchvision `ImageFolder` with PIL transforms: RandomResizedCrop (or Resize + CenterCrop),
ToTensor, Normalize. Ours is the way of a streamed train set (`ImageSet.train_pixels_of`, then `Augmenter`) and the
preprocessing contract, by which validation, test and predict read. All ways take turns, file list after file list, in
one process with one thread; a ratio is that of one round, and the median over the rounds counts. Processor time is
measured, so that others at work on the machine disturb little.

Large photos are made here: photos of hymenoptera, enlarged to 2000 pixels, with noise, at JPEG quality 88. Worker
processes are measured end to end as well, in processor time of the whole process tree.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, hardware, versions, write_result
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.datasets.folder import default_loader

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.fast_decode import fast_pixels, whole_decoder
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import train_batches
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample

SIDE, BATCH = 224, 32
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CONTRACT = Preprocess(height=SIDE, width=SIDE, channels=3, crop_fraction=0.875, mean=MEAN, std=STD)
TO_NUMBERS = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
RANDOM_CROP = [transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip()]
CENTRE_CROP = [transforms.Resize(256), transforms.CenterCrop(SIDE)]
TRAIN_BAR, CONTRACT_BAR = 2.2, 1.3

Way = Callable[[Sequence[Path]], None]


def textbook(steps: Sequence[Any]) -> Way:
    transform = transforms.Compose(steps)

    def read(files: Sequence[Path]) -> None:
        for file in files:
            transform(default_loader(str(file)))

    return read


def each(read: Callable[[Path], Any]) -> Way:
    def read_all(files: Sequence[Path]) -> None:
        for file in files:
            read(file)

    return read_all


def image_set(files: Sequence[Path], decoder: str) -> ImageSet:
    samples = [Sample(file, 0, file.name) for file in files]
    return ImageSet(samples, np.zeros(len(files), np.int64), CONTRACT, None, decoder)


def batches_of(count: int) -> list[NDArray[np.int64]]:
    return [np.arange(start, min(start + BATCH, count)) for start in range(0, count, BATCH)]


def our_train(changes: AugmentConfig, decoder: str = "fast", num_workers: int = 0) -> Way:
    augmenter = Augmenter(changes, CONTRACT, num_classes=2, seed=0)

    def read(files: Sequence[Path]) -> None:
        for _ in train_batches(image_set(files, decoder), augmenter, batches_of(len(files)), 0, num_workers):
            pass

    return read


def our_pixels(files: Sequence[Path]) -> None:
    images = image_set(files, "fast")
    for ids in batches_of(len(files)):
        images.train_pixels_of(ids)


def drafted(file: Path) -> None:
    picture = Image.open(file)
    picture.draft("RGB", (256, 256))
    picture.load()


WAYS: dict[str, Way] = {
    "textbook: RandomResizedCrop, flip": textbook(RANDOM_CROP + TO_NUMBERS),
    "textbook: Resize, CenterCrop": textbook(CENTRE_CROP + TO_NUMBERS),
    "ours: contract": each(CONTRACT),
    "ours: train": our_train(AugmentConfig()),
    "ours: train, flip": our_train(AugmentConfig(horizontal_flip=True)),
    "ours: train, random crop, flip": our_train(AugmentConfig(horizontal_flip=True, crop_area_range=(0.08, 1.0))),
    "textbook: RandomResizedCrop, flip, to pixels": textbook(RANDOM_CROP),
    "textbook: Resize, CenterCrop, to pixels": textbook(CENTRE_CROP),
    "ours: contract, to pixels": each(CONTRACT.pixels),
    "ours: train, to pixels": our_pixels,
    "decoding alone: Pillow": each(lambda file: Image.open(file).load()),
    "decoding alone: Pillow, scaled to at least 256": each(drafted),
}
# Name of the ratio -> (textbook way, our way). The first two carry the bars.
RATIOS = {
    "train: decode and resize": ("textbook: Resize, CenterCrop, to pixels", "ours: train, to pixels"),
    "contract": ("textbook: Resize, CenterCrop", "ours: contract"),
    "train": ("textbook: Resize, CenterCrop", "ours: train"),
    "contract: decode and resize": ("textbook: Resize, CenterCrop, to pixels", "ours: contract, to pixels"),
    "train with flip, beside RandomResizedCrop": ("textbook: RandomResizedCrop, flip", "ours: train, flip"),
    "train with random crop and flip": ("textbook: RandomResizedCrop, flip", "ours: train, random crop, flip"),
    "decode and resize, beside RandomResizedCrop": (
        "textbook: RandomResizedCrop, flip, to pixels",
        "ours: train, to pixels",
    ),
}


def large_photos(files: Sequence[Path], folder: Path) -> list[Path]:
    """Photos of 2000 pixels on the longer side; enlarging alone would leave nothing for the entropy decoder to do."""
    random = np.random.default_rng(0)
    made = []
    for file in files:
        picture = Image.open(file).convert("RGB")
        scale = 2000 / max(picture.size)
        size = (round(picture.width * scale), round(picture.height * scale))
        pixels = np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) + random.normal(0, 3, (*size[::-1], 3))
        made.append(folder / file.name)
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(made[-1], quality=88)
    return made


def describe(files: Sequence[Path]) -> dict[str, Any]:
    sizes = [Image.open(file).size for file in files]
    return {
        "photos": len(files),
        "median_width_pixels": statistics.median(width for width, _ in sizes),
        "median_height_pixels": statistics.median(height for _, height in sizes),
        "mean_kilobytes": round(statistics.mean(file.stat().st_size for file in files) / 1000, 1),
    }


def measure(files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Images per second and core of every way, and the ratios of each round."""
    per_second: dict[str, list[float]] = {name: [] for name in WAYS}
    for read in WAYS.values():
        read(files[:BATCH])
    for _ in range(rounds):
        for name, read in WAYS.items():
            started = time.process_time()
            read(files)
            per_second[name].append(len(files) / (time.process_time() - started))
    ratios = {
        name: [ours / theirs for theirs, ours in zip(per_second[slow], per_second[quick], strict=True)]
        for name, (slow, quick) in RATIOS.items()
    }
    return {
        "images_per_second_and_core": {name: round(statistics.median(found), 1) for name, found in per_second.items()},
        "ratios": {
            name: {"median": round(statistics.median(found), 2), "of_each_round": [round(one, 2) for one in found]}
            for name, found in ratios.items()
        },
    }


class Files(Dataset[torch.Tensor]):
    """The textbook's data set: one transformed picture per index."""

    def __init__(self, files: Sequence[Path], steps: Sequence[Any]) -> None:
        self.files, self.transform = files, transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        image: torch.Tensor = self.transform(default_loader(str(self.files[index])))
        return image


def textbook_workers(steps: Sequence[Any]) -> Way:
    def read(files: Sequence[Path]) -> None:
        for _ in DataLoader(Files(files, steps), batch_size=BATCH, num_workers=2):
            pass

    return read


def tree_seconds() -> float:
    """Processor time of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def measure_workers(files: Sequence[Path], rounds: int) -> dict[str, Any]:
    """Two worker processes: images per processor second, all processes together, starting them included."""
    ways = {
        "textbook: Resize, CenterCrop": textbook_workers(CENTRE_CROP + TO_NUMBERS),
        "ours: train": our_train(AugmentConfig(), num_workers=2),
    }
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, read in ways.items():
            started = tree_seconds()
            read(files)
            found[name].append(len(files) / (tree_seconds() - started))
    ratios = [ours / theirs for theirs, ours in zip(*found.values(), strict=True)]
    return {
        "images_per_processor_second": {name: round(statistics.median(values), 1) for name, values in found.items()},
        "ratio": {"median": round(statistics.median(ratios), 2), "of_each_round": [round(one, 2) for one in ratios]},
    }


def differences(files: Sequence[Path]) -> dict[str, Any]:
    """Of 8-bit pixels: train beside the contract, and the contract beside its version 1 (torchvision's pixels)."""
    first = Preprocess(**{**CONTRACT.as_dict(), "version": 1})

    def compare(one: Callable[[Path], NDArray[np.uint8]], other: Callable[[Path], NDArray[np.uint8]]) -> dict[str, Any]:
        found = [np.abs(one(file).astype(int) - other(file)) for file in files]
        return {
            "mean": round(float(np.mean([difference.mean() for difference in found])), 4),
            "mean_of_the_worst_photo": round(max(float(difference.mean()) for difference in found), 4),
            "max": max(int(difference.max()) for difference in found),
        }

    return {
        "train beside contract": compare(lambda file: fast_pixels(file, CONTRACT), CONTRACT.pixels),
        "contract beside version 1": compare(CONTRACT.pixels, first.pixels),
    }


def sets_of_photos(photos: int, large: int, folder: Path) -> Iterator[tuple[str, list[Path]]]:
    files = sorted((DATA / "hymenoptera").rglob("*.jpg"))
    if not files:
        raise SystemExit("hymenoptera is not below CONVCRAFT_DATA")
    yield "hymenoptera", files[:: max(1, len(files) // photos)][:photos]
    yield "large photos", large_photos(files[:: max(1, len(files) // large)][:large], folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--large", type=int, default=32)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore", DeprecationWarning)
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions("pillow", "numpy", "torch", "torchvision", "simplejpeg"),
        "decoder_of_whole_photos": whole_decoder(),
        "rounds": arguments.rounds,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name, files in sets_of_photos(arguments.photos, arguments.large, Path(folder)):
            result[name] = {
                **describe(files),
                **measure(files, arguments.rounds),
                "two_workers": measure_workers(files, 3),
                "grey_levels_of_difference": differences(files),
            }
            print(name, result[name], sep="\n", flush=True)
    missed = [
        f"{photos}, {ratio}: {result[photos]['ratios'][ratio]['median']}"
        for photos in ("hymenoptera", "large photos")
        for ratio, bar in (("train: decode and resize", TRAIN_BAR), ("contract", CONTRACT_BAR))
        if result[photos]["ratios"][ratio]["median"] < bar
    ]
    write_result("decode", {"met": not missed, "missed": missed, **result})
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
