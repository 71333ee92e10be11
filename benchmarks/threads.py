"""What OpenMP's way of waiting costs: training on all cores, alone and beside one busy process.

    python benchmarks/threads.py

torch's threads meet after every operation. By default (GNU OpenMP) a thread that waits spins for milliseconds and keeps
its core. With another process on one of the cores, the thread that everybody waits for gets no core to run on, and the
spinning ones do not make room. OMP_WAIT_POLICY=PASSIVE makes them sleep. LeNet-5 on 128 images of 28x28 pixels in
float32; one process per measurement, policies in turns. `other_load` is the load average of the machine before each
one: figures of a machine that others use say nothing about the quiet case. Results: benchmarks/results/threads.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from typing import Any

from measured_on import hardware, spread, versions, write_result

POLICIES: dict[str, dict[str, str]] = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}}
WARM_UP_STEPS = 5


def steps_per_second(seconds: float) -> float:
    """Optimiser steps of LeNet-5 in this process, with the threads that it was started with."""
    import torch

    from convcraft.config import ModelConfig
    from convcraft.models.build import build_model

    torch.manual_seed(0)
    model = build_model(ModelConfig(name="lenet5"), num_classes=10, in_channels=1, image_size=(28, 28))
    model = model.to(memory_format=torch.channels_last)
    images, targets = torch.randn(128, 1, 28, 28), torch.randint(10, (128,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    steps, started = -WARM_UP_STEPS, 0.0
    while steps < 0 or time.perf_counter() - started < seconds:
        if steps == 0:
            started = time.perf_counter()
        torch.nn.functional.cross_entropy(model(images), targets).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        steps += 1
    return steps / (time.perf_counter() - started)


def measure(policy: str, seconds: float, busy: bool) -> float:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if busy else None
    try:
        command = [sys.executable, __file__, "--inner", "--seconds", str(seconds)]
        environment = {**plain, **POLICIES[policy]}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    finally:
        if other is not None:
            other.kill()
            other.wait()
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--inner", action="store_true", help="measure in this process and print the figure")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.inner:
        print(steps_per_second(arguments.seconds))
        return
    rates: dict[str, dict[str, list[float]]] = {
        case: {policy: [] for policy in POLICIES} for case in ("alone", "beside_a_busy_process")
    }
    loads: list[float] = []
    for _ in range(arguments.rounds):
        for case, by_policy in rates.items():
            for policy, values in by_policy.items():
                loads.append(os.getloadavg()[0])
                values.append(measure(policy, arguments.seconds, busy=case != "alone"))
                print(case, policy, f"{values[-1]:.1f} steps/s", f"load {loads[-1]:.1f}", flush=True)
    result: dict[str, Any] = {
        "hardware": hardware(),
        "versions": versions("torch"),
        "steps_per_second": {case: {p: spread(v) for p, v in by_policy.items()} for case, by_policy in rates.items()},
        "other_load": loads,
    }
    write_result("threads", json.loads(json.dumps(result)))


if __name__ == "__main__":
    main()
