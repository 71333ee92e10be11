"""Claim: `convcraft demo` reads at least 98.5 % of unseen digits, within 90 seconds after installation.

    python benchmarks/digits.py [--seeds 3]

Runs the demo as a user would, once per seed, and notes test accuracy and the wall-clock time of the whole command.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from measured_on import convcraft_json, hardware, spread, stolen_seconds, versions, write_result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = parser.parse_args().seeds
    accuracies, train_seconds, command_seconds = [], [], []
    stolen_before = stolen_seconds()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(seeds):
            started = time.monotonic()
            result = convcraft_json("demo", "--out", str(Path(folder) / f"seed-{seed}"), "--seed", str(seed))
            command_seconds.append(time.monotonic() - started)
            accuracies.append(result["accuracy"])
            train_seconds.append(result["train_seconds"])
            print(f"seed {seed}: test accuracy {accuracies[-1]:.4f}, command {command_seconds[-1]:.1f} s")
    write_result(
        "digits",
        {
            "claim": "demo: test accuracy >= 0.985 in <= 90 s",
            "test_accuracy": spread(accuracies),
            "train_seconds": spread(train_seconds),
            "command_seconds": spread(command_seconds),
            "stolen_cpu_seconds": stolen_seconds() - stolen_before,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "numpy"),
        },
    )


if __name__ == "__main__":
    main()
