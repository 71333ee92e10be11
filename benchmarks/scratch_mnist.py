"""Claim: LeNet-5 trained in NumPy alone reaches >= 98.9 % on MNIST's test images.

    python benchmarks/scratch_mnist.py [--seeds 3] [--threads N]

Everything goes through the command line: `convcraft scratch train mnist` (recipe scratch-lenet5: 55,000 images train,
5,000 are validation), then `convcraft evaluate`, which opens the test images. The torch engine trains with the same
settings and seeds beside it (`training.engine=torch`): same start values, order and augmentation. The result is written
after every seed; `met` speaks of the mean.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from measured_on import DATA, convcraft_json, hardware, spread, stolen_seconds, versions, write_result

RECIPE, BAR = "scratch-lenet5", 0.989


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of both engines")
    parser.add_argument("--no-torch", action="store_true", help="leave the torch engine out")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    engines = ["numpy"] if arguments.no_torch else ["numpy", "torch"]
    stolen_before = stolen_seconds()
    found: dict[str, dict[str, list[float]]] = {engine: {"accuracy": [], "seconds": []} for engine in engines}
    for seed in range(arguments.seeds):
        for engine in engines:
            accuracy, seconds = _train_and_judge(engine, seed, arguments.threads)
            found[engine]["accuracy"].append(accuracy)
            found[engine]["seconds"].append(seconds)
            print(f"{engine} seed {seed}: test accuracy {accuracy:.4f}, trained in {seconds:.1f} s", flush=True)
        write_result("scratch_mnist", _result(found, arguments.threads, stolen_seconds() - stolen_before))


def _train_and_judge(engine: str, seed: int, threads: int) -> tuple[float, float]:
    """Accuracy on the test images, and seconds in the training loop."""
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder) / "run")
        command = ["scratch", "train", "mnist", "--threads", str(threads)]
        if engine == "torch":
            settings = ("training.engine=torch", "training.precision=32-true")
            command = ["train", "mnist", "--recipe", RECIPE, *(part for name in settings for part in ("--set", name))]
        trained = convcraft_json(*command, "--seed", str(seed), "--out", run, "--data-dir", str(DATA))
        return convcraft_json("evaluate", run)["accuracy"], trained["train_seconds"]


def _result(found: dict[str, dict[str, list[float]]], threads: int, stolen: float) -> dict[str, Any]:
    """What the seeds so far say."""
    from convcraft.recipes.catalogue import load_recipe

    config = load_recipe(RECIPE)
    accuracies = spread(found["numpy"]["accuracy"])
    return {
        "claim": f"LeNet-5 in NumPy >= {BAR} on MNIST's test images, mean of the seeds",
        "recipe": RECIPE,
        "epochs": config.training.epochs,
        "bar": BAR,
        "met": accuracies["mean"] >= BAR,
        "engines": {
            engine: {"test_accuracy": spread(values["accuracy"]), "train_seconds": spread(values["seconds"])}
            for engine, values in found.items()
        },
        "threads": threads,
        "stolen_cpu_seconds": round(stolen, 1),
        "note": "Other work shared the machine: the seconds are upper bounds; accuracies do not depend on it.",
        "hardware": hardware(),
        "versions": versions("convcraft", "torch", "numpy"),
    }


if __name__ == "__main__":
    main()
