"""Claim: recipe cifar10-cpu: at least 88 % of the CIFAR-10 (JPEG files) test images, in at most 15 minutes of training.

    python benchmarks/cifar10_cpu.py [--seeds 3] [--threads N] [--runs FOLDER]

Trains as a user would (`--final`: all 50,000 train images, a fixed schedule, the last weights), judges the test images
once at the end, one run per seed. With --runs the run folders are kept, and a call that was stopped goes on. The result
is written after every seed; `met` stays None until all of them ended. A seed whose run fails does not stop the others.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from measured_on import alike, convcraft_json, hardware, spread, stolen_seconds, versions, write_result

ACCURACY_BAR, SECONDS_BAR = 0.88, 900


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None, help="threads of torch; default: all cores")
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here")
    options = parser.parse_args()
    if options.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
    stolen_before = stolen_seconds()
    results: list[dict[str, Any]] = []
    failed: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.runs or Path(temporary)
        for seed in range(options.seeds):
            try:
                results.append(run_seed(folder / f"seed-{seed}", seed))
            except SystemExit as error:  # the command's own message
                failed[f"seed {seed}"] = str(error)
                print(f"seed {seed} failed: {error}", flush=True)
            if results:
                write_result(
                    "cifar10_cpu",
                    {
                        **judge(results, options.seeds),
                        "failed": failed,
                        "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                        "hardware": hardware(),
                        "versions": versions("convcraft", "torch", "numpy"),
                    },
                )
    if failed:
        raise SystemExit(1)


def judge(results: Sequence[Mapping[str, Any]], seeds: int) -> dict[str, Any]:
    """Spread over the runs so far against the bar; met is None until every seed has its run."""
    accuracy = spread([result["accuracy"] for result in results])
    seconds = spread([result["train_seconds"] for result in results])
    met = accuracy["mean"] >= ACCURACY_BAR and seconds["max"] <= SECONDS_BAR
    return {
        "claim": "recipe cifar10-cpu: test accuracy >= 0.88 on the JPEG files in <= 900 s of training",
        "test_accuracy": accuracy,
        "train_seconds": seconds,
        "met": met if len(results) == seeds else None,
        "num_train_images": 50_000,
        "threads": alike(result["threads"] for result in results),
        "precision": alike(result["precision"] for result in results),
    }


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
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return {**result, "precision": summary["precision"], "threads": summary["threads"]}


if __name__ == "__main__":
    main()
