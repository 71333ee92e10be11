"""What every result file carries: where and with what it was measured."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from convcraft.statistics import mean_and_spread

RESULTS = Path(__file__).resolve().parent / "results"
DATA = Path(os.environ.get("CONVCRAFT_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")


def hardware() -> dict[str, Any]:
    """Processor, cores and the instructions that decide about bfloat16."""
    cpu, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.exists():
        facts = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        named = {name.strip(): value.strip() for name, value in facts.items()}
        cpu, flags = named.get("model name", cpu), named.get("flags", "")
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "avx2": " avx2" in flags,
        "avx512_bf16": " avx512_bf16" in flags,
        "system": platform.system(),
    }


def versions(*names: str) -> dict[str, str]:
    return {"python": platform.python_version(), **{name: version(name) for name in names}}


def spread(values: list[float]) -> dict[str, Any]:
    """Mean, sample standard deviation, range and the values themselves."""
    found = mean_and_spread(values)
    return {"mean": found.mean, "std": found.std, "min": found.minimum, "max": found.maximum, "values": values}


def alike(values: Iterable[Any]) -> Any:
    """What every run had (threads, precision): the value; a list where they differ, None where there was no run."""
    different = sorted(set(values))
    return different[0] if len(different) == 1 else (different or None)


def stolen_seconds() -> float:
    """Processor time that the host took from this (virtual) machine since it started, over all cores; 0 if unknown."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return 0.0
    return int(stat.read_text().split("\n", 1)[0].split()[8]) / os.sysconf("SC_CLK_TCK")


def convcraft_json(*arguments: str) -> dict[str, Any]:
    """Run a command of ours in a process of its own and read the JSON on its last line."""
    command = [sys.executable, "-m", "convcraft", *arguments, "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def write_result(name: str, result: dict[str, Any]) -> Path:
    """results/NAME.json, with the command that made it; replaced in one step, so that a stop leaves a whole file."""
    command = "python benchmarks/" + shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    path = RESULTS / f"{name}.json"
    part = path.with_suffix(".part")
    part.write_text(json.dumps({"command": command, **result}, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    print(f"written: {path.name}")
    return path
