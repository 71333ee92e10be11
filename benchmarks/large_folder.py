"""Claim: a folder of 100,000 small images that was looked at once is looked at again in at most 5 seconds.

    python benchmarks/large_folder.py [--files 20000]

Makes a folder of PNG and JPEG files (48 x 48, smooth colour noise, 20 classes) and starts three times, each time in a
process of its own, on one core, with a cache of its own: with nothing remembered, again, and again after some files
were changed, added and removed. Of each start the parts of `prepare_training_data` are timed:

- list: the folder is walked, files get their classes;
- scan: every image is looked at, or found in the index;
- copies: near copies are looked for, or remembered;
- split, decode: parts are drawn, and train and validation images decoded into memory (for 2 GB; larger sets stream).

The files were just written, so the system has them in memory: what is measured is the program, not a disk.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from measured_on import hardware, stolen_seconds, versions, write_result
from PIL import Image

CLASSES = 20
SIDE_PIXELS = 48
FILES_CHANGED = 100


def make_files(root: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    for name in range(CLASSES):
        (root / f"class {name}").mkdir(parents=True)
    for number in range(count):
        make_file(root / f"class {number % CLASSES}" / f"{number}.{'png' if number % 2 else 'jpg'}", rng)


def make_file(path: Path, rng: np.random.Generator) -> None:
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    coarse.resize((SIDE_PIXELS, SIDE_PIXELS), Image.Resampling.BICUBIC).save(path)


def change_some(root: Path, count: int) -> None:
    """Some files get other pixels, as many are new, as many are gone."""
    rng = np.random.default_rng(1)
    files = sorted(root.glob("*/*"))
    for path in files[:count]:
        make_file(path, rng)
    for path in files[count : 2 * count]:
        path.unlink()
    for number in range(count):
        make_file(root / "class 0" / f"new-{number}.png", rng)


def start(root: Path, cache: Path) -> dict[str, Any]:
    """One start in a process of its own."""
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--start", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(done.stderr)
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def timed_start(root: Path) -> dict[str, Any]:
    """What the process of `start` does: seconds of each part, images scanned, and the hash of the train part."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from convcraft.config import DataConfig, PreprocessConfig
    from convcraft.data import dataset, folder_index

    seconds: dict[str, float] = {}
    looked_at = [0]

    def timed(name: str, function: Any) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            started = time.monotonic()
            try:
                return function(*arguments, **options)
            finally:
                seconds[name] = seconds.get(name, 0.0) + time.monotonic() - started

        return call

    def counted(samples: Any, **options: Any) -> Any:
        looked_at[0] += len(samples)
        return scan_images(samples, **options)

    scan_images = folder_index.scan_images
    folder_index.scan_images = counted
    dataset.open_source = timed("list", dataset.open_source)
    dataset.remembered_scan = timed("scan", dataset.remembered_scan)
    dataset.remembered_copy_groups = timed("copies", dataset.remembered_copy_groups)
    dataset.make_splits = timed("split", dataset.make_splits)
    dataset.ImageSet.build = timed("decode", dataset.ImageSet.build)
    started = time.monotonic()
    data = dataset.prepare_training_data(DataConfig(source=str(root)), PreprocessConfig())
    total = time.monotonic() - started
    return {
        "seconds": {**seconds, "other": total - sum(seconds.values()), "all": total},
        "images_looked_at": looked_at[0],
        "train_sha256": data.description["sha256"]["train"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=20_000)
    parser.add_argument("--start", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.start is not None:
        print(json.dumps(timed_start(arguments.start)))
        return
    stolen_before = stolen_seconds()
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "images"), Path(folder, "cache")
        began = time.monotonic()
        make_files(root, arguments.files)
        print(f"{arguments.files} files made in {time.monotonic() - began:.0f} s")
        starts = {"first": start(root, cache), "second": start(root, cache)}
        if starts["first"]["train_sha256"] != starts["second"]["train_sha256"]:
            raise SystemExit("the second start gave other data than the first")
        change_some(root, FILES_CHANGED)
        starts["after changes"] = start(root, cache)
        index_bytes = sum(path.stat().st_size for path in (cache / "convcraft" / "scans").iterdir())
    for name, measured in starts.items():
        parts = ", ".join(f"{part} {value:.1f}" for part, value in measured["seconds"].items())
        print(f"{name}: {measured['images_looked_at']} images looked at; seconds: {parts}")
    write_result(
        "large_folder",
        {
            "claim": "100,000 small images: the second scan takes <= 5 s",
            "files": arguments.files,
            "starts": starts,
            "index_bytes_per_image": index_bytes / arguments.files,
            "stolen_cpu_seconds": stolen_seconds() - stolen_before,
            "hardware": hardware(),
            "versions": versions("convcraft", "numpy", "pillow"),
        },
    )


if __name__ == "__main__":
    main()
