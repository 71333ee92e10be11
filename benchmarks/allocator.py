"""Claim: keeping freed memory makes a small network's training steps on a CPU quicker (docs/training.md).

    python benchmarks/allocator.py [--rounds 5] [--threads 1]

Interleaves processes that differ in one call, `keep_freed_memory()`: seed_cnn on 64 images of 28x28, batch after batch.
Reports processor time per step and the pages that the system had to bring in for it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

from measured_on import hardware, spread, versions, write_result

STEPS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=("usual", "kept"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure(options.child)))
        return
    environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "OMP_WAIT_POLICY": "PASSIVE"}
    found: dict[str, list[dict[str, float]]] = {"usual": [], "kept": []}
    for _ in range(options.rounds):
        for way, results in found.items():
            command = [sys.executable, __file__, "--child", way]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    ratios = [
        usual["milliseconds"] / kept["milliseconds"] for usual, kept in zip(found["usual"], found["kept"], strict=True)
    ]
    print(f"{statistics.median(ratios):.2f} times the speed")
    result: dict[str, Any] = {
        way: {name: spread([result[name] for result in results]) for name in results[0]}
        for way, results in found.items()
    }
    write_result(
        "allocator",
        {
            "claim": "keeping freed memory between steps pays on a CPU",
            "network": "seed_cnn, batch 64, 28x28x1, Adam, auto precision",
            **result,
            "ratio": spread(ratios),
            "threads": options.threads,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch"),
        },
    )


def measure(way: str) -> dict[str, float]:
    """Processor milliseconds and page faults per training step."""
    import resource
    import time

    import torch

    from convcraft.models.seed_cnn import SeedCNN
    from convcraft.training.allocator import keep_freed_memory
    from convcraft.training.devices import precision_of

    if way == "kept" and not keep_freed_memory():
        raise SystemExit("the setting did not take effect: not glibc, or an allocator of your own is set")
    model = SeedCNN().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), fused=True)
    images, labels = torch.randn(64, 1, 28, 28), torch.randint(0, 10, (64,))
    bf16 = precision_of("auto", "cpu") == "bf16-mixed"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = model(images)
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    for _ in range(20):
        step()
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.process_time()
    for _ in range(STEPS):
        step()
    seconds = time.process_time() - started
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return {"milliseconds": 1000 * seconds / STEPS, "page_faults": faults / STEPS}


if __name__ == "__main__":
    main()
