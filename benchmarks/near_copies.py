"""How well near copies are found, and how rarely look-alikes are taken for them.

    CONVCRAFT_DATA=DATA python benchmarks/near_copies.py    # a folder with mnist/, cifar10/ and hymenoptera/

Each data set gets copies of a random 5 % of its images (all of the 397 hymenoptera photos) in three kinds: JPEG at
quality 60; half the resolution and back; a crop to 90-95 % of each side. `recall` is the share of copies that end in
the group of their original. `joined_share` is the share of the images of the set as it is that end in a group with
another one: these sets have no known copies inside but CIFAR-10, where the share of joined pairs with equal labels is
given too (two random images agree in 10 %). Results: benchmarks/results/near_copies.json.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from measured_on import DATA, hardware, versions, write_result
from numpy.typing import NDArray
from PIL import Image

from convcraft.config import DataConfig
from convcraft.data.copies import copy_groups, cross_copies
from convcraft.data.images import decode
from convcraft.data.sample import Sample
from convcraft.data.scan import scan_images
from convcraft.data.sources import open_source
from convcraft.data.splits import all_samples, brought_indices

Change = Callable[[Image.Image, np.random.Generator], bytes]


def jpeg_quality_60(picture: Image.Image, rng: np.random.Generator) -> bytes:
    return _encoded(picture, "JPEG", quality=60)


def half_resolution_and_back(picture: Image.Image, rng: np.random.Generator) -> bytes:
    half = picture.resize((max(1, picture.width // 2), max(1, picture.height // 2)), Image.Resampling.BILINEAR)
    return _encoded(half.resize(picture.size, Image.Resampling.BILINEAR), "PNG")


def crop_90_to_95_percent(picture: Image.Image, rng: np.random.Generator) -> bytes:
    share = rng.uniform(0.90, 0.95)
    width, height = (max(1, round(side * share)) for side in picture.size)
    left, top = rng.integers(0, picture.width - width + 1), rng.integers(0, picture.height - height + 1)
    return _encoded(picture.crop((left, top, left + width, top + height)), "PNG")


CHANGES: tuple[Change, ...] = (jpeg_quality_60, half_resolution_and_back, crop_90_to_95_percent)


def _encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def joined_share(groups: NDArray[np.int64]) -> float:
    _, inverse, counts = np.unique(groups, return_inverse=True, return_counts=True)
    return float((counts[inverse] > 1).mean())


def equal_label_share(groups: NDArray[np.int64], targets: NDArray[np.int64]) -> float | None:
    """Of the images that were joined with an earlier one: how many have its label."""
    joined = np.flatnonzero(groups != np.arange(len(groups)))
    return float((targets[joined] == targets[groups[joined]]).mean()) if len(joined) else None


def measure(name: str, config: DataConfig, share: float) -> dict[str, Any]:
    source = open_source(config)
    samples = all_samples(source)
    scan = scan_images(samples)
    started, started_cpu = time.perf_counter(), time.process_time()
    groups = copy_groups(scan.thumbnails, scan.digests)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - started_cpu
    targets = np.array([sample.target for sample in samples])
    result: dict[str, Any] = {
        "images": len(samples),
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "joined_share": round(joined_share(groups), 5),
        "equal_label_share": equal_label_share(groups, targets),
        "largest_group": int(np.unique(groups, return_counts=True)[1].max()),
    }
    brought = brought_indices(source)
    if "train" in brought:
        other = "test" if "test" in brought else "val"
        pairs = cross_copies(groups, brought["train"], brought[other])
        result[f"{other}_images_with_a_copy_in_train"] = len(pairs)
    rng = np.random.default_rng(0)
    thumbnails, digests, originals, kinds = [scan.thumbnails], list(scan.digests), [], []
    for kind, change in enumerate(CHANGES):
        chosen = np.sort(rng.choice(len(samples), max(1, round(share * len(samples))), replace=False))
        copies = [Sample(change(decode(samples[index].image).image, rng), 0, str(index)) for index in chosen]
        looked = scan_images(copies)
        thumbnails.append(looked.thumbnails)
        digests += looked.digests
        originals.append(chosen)
        kinds += [kind] * len(chosen)
    groups = copy_groups(np.concatenate(thumbnails), digests)
    found = groups[np.concatenate(originals)] == groups[len(samples) :]
    result["recall"] = {
        change.__name__: round(float(found[np.array(kinds) == kind].mean()), 4) for kind, change in enumerate(CHANGES)
    }
    print(name, json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    if not (DATA / "hymenoptera").is_dir():
        parser.error(f"no real data at {DATA}: name the folder of mnist/, cifar10/ and hymenoptera/ in $CONVCRAFT_DATA")
    sets = {
        "digits": ("digits", 0.05),
        "hymenoptera": (str(DATA / "hymenoptera"), 1.0),
        "cifar10": ("cifar10", 0.05),
        "mnist": ("mnist", 0.05),
    }
    results = {
        name: measure(name, DataConfig(source=place, data_dir=str(DATA)), share)
        for name, (place, share) in sets.items()
    }
    write_result(
        "near_copies",
        {
            "results": results,
            "peak_memory_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "threads": os.getenv("OMP_NUM_THREADS"),
            "hardware": hardware(),
            "versions": versions("convcraft", "numpy", "scipy", "pillow"),
        },
    )


if __name__ == "__main__":
    main()
