"""Where `torch.compile` pays: training steps with and without it, and what compiling costs.

    OMP_NUM_THREADS=1 python benchmarks/compiled.py

One process for each network and precision, with no kernel of an earlier run at hand. It trains eagerly and compiled in
turns, on random images. Figures are of processor time on one thread, so that other work on the machine disturbs them
little. `pays_after_steps` is the number of steps after which compiling has been earned back. Results:
benchmarks/results/compiled.json.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from measured_on import hardware, versions, write_result

CASES = (
    ("lenet5", 128, "bf16"),
    ("seed_cnn", 128, "bf16"),
    ("vgg_small", 64, "bf16"),
    ("vgg_small", 64, "fp32"),
    ("resnet20_cifar", 128, "bf16"),
)
ROUNDS, ROUND_SECONDS = 3, 1.5


def training_step(name: str, batch_size: int, precision: str, compiled: bool) -> Callable[[int], None]:
    """A step of AdamW on a batch of the given size, as the loop does it."""
    import torch

    from convcraft.config import ModelConfig
    from convcraft.models.build import build_model

    channels, side = (1, 28) if name == "lenet5" else (3, 32)
    torch.manual_seed(0)
    model = build_model(ModelConfig(name=name), num_classes=10, in_channels=channels, image_size=(side, side))
    model = model.to(memory_format=torch.channels_last)
    images = torch.randn(batch_size, channels, side, side).to(memory_format=torch.channels_last)
    targets = torch.randint(10, (batch_size,))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    network = torch.compile(model) if compiled else model

    def step(num_images: int) -> None:
        batch = images[:num_images].clone(memory_format=torch.preserve_format)
        if compiled:
            torch._dynamo.maybe_mark_dynamic(batch, 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(batch)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets[:num_images])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def processor_seconds() -> float:
    """Of this process and of the compilers that it started."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def measure(name: str, batch_size: int, precision: str) -> dict[str, Any]:
    eager = training_step(name, batch_size, precision, compiled=False)
    compiled = training_step(name, batch_size, precision, compiled=True)
    eager(batch_size)
    started, wall = processor_seconds(), time.perf_counter()
    compiled(batch_size)
    compiled(batch_size - 1)  # the other size of an epoch must not compile again
    compile_seconds, compile_wall = processor_seconds() - started, time.perf_counter() - wall
    per_second: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(ROUNDS):
        for kind, step in (("eager", eager), ("compiled", compiled)):
            started, steps = time.process_time(), 0
            while time.process_time() - started < ROUND_SECONDS:
                step(batch_size - steps % 2)
                steps += 1
            per_second[kind].append(steps / (time.process_time() - started))
    slow, fast = statistics.median(per_second["eager"]), statistics.median(per_second["compiled"])
    return {
        "network": name,
        "batch_size": batch_size,
        "precision": precision,
        "eager_steps_per_second": per_second["eager"],
        "compiled_steps_per_second": per_second["compiled"],
        "speedup": fast / slow,
        "compile_processor_seconds": compile_seconds,
        "compile_wall_seconds": compile_wall,
        "pays_after_steps": None if fast <= slow else compile_seconds / (1 / slow - 1 / fast),
    }


def main() -> None:
    if len(sys.argv) == 4:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3])))
        return
    cases = []
    for name, batch_size, precision in CASES:
        with tempfile.TemporaryDirectory() as cache:
            environment = {**os.environ, "OMP_NUM_THREADS": "1", "TORCHINDUCTOR_CACHE_DIR": cache}
            command = [sys.executable, __file__, name, str(batch_size), precision]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        cases.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps(cases[-1]), flush=True)
    write_result("compiled", {"hardware": hardware(), "versions": versions("torch"), "threads": 1, "cases": cases})


if __name__ == "__main__":
    main()
