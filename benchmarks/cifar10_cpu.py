"""Claim: recipe cifar10-cpu: at least 88 % of the CIFAR-10 (JPEG files) test images, in at most 15 minutes of training.

    python benchmarks/cifar10_cpu.py [--seeds 3] [--threads N] [--runs FOLDER]

Trains as a user would (`--final`: all 50,000 train images, a fixed schedule, the last weights), judges the test images
once at the end, one run per seed. With --runs the run folders are kept, and a call that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from measured_on import convcraft_json, hardware, spread, stolen_seconds, versions, write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: all cores")
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here")
    options = parser.parse_args()
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    stolen_before = stolen_seconds()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        results = [run_seed(folder / f"seed-{seed}", seed) for seed in range(options.seeds)]
    write_result(
        "cifar10_cpu",
        {
            "claim": "recipe cifar10-cpu: test accuracy >= 0.88 on the JPEG files in <= 900 s of training",
            "test_accuracy": spread([result["accuracy"] for result in results]),
            "train_seconds": spread([result["train_seconds"] for result in results]),
            "num_train_images": 50_000,
            "threads": options.threads or os.cpu_count(),
            "stolen_cpu_seconds": stolen_seconds() - stolen_before,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "numpy"),
        },
    )


def run_seed(run: Path, seed: int) -> dict[str, Any]:
    """Train and judge one seed; a finished run is taken as it is."""
    if not (run / "summary.json").exists():
        new = ("cifar10", "--recipe", "cifar10-cpu", "--final", "--seed", str(seed))
        arguments = ("--resume",) if (run / "config.yaml").exists() else new
        convcraft_json("train", *arguments, "--out", str(run))
    result = convcraft_json("evaluate", str(run))
    print(
        f"seed {seed}: test accuracy {result['accuracy']:.4f}, trained in {result['train_seconds']:.0f} s", flush=True
    )
    precision = json.loads((run / "summary.json").read_text())["precision"]
    return {**result, "precision": precision}


if __name__ == "__main__":
    main()
