"""Claim: without torch, a bundle answers as the run does: a small install, a quick start, the same answers.

    CONVCRAFT_DATA=DATA python benchmarks/base_install.py [--run FOLDER] [--starts N]

Installs convcraft's base (no extra) from this checkout into a new virtual environment, as `pip install convcraft` does.
A run of MobileNetV2 on the ants/bees photos (`finetune --method probe`, made here unless --run has one) is exported as
ONNX, and one test photo is predicted by the base install's own `convcraft predict`, as a new process each time:

- MB of the virtual environment, without pip and setuptools, which a user may remove; bar 250.
- seconds from the start of the process to its end, the first (probes are sent through) and later ones; bar 1.5 s.
- all 153 test photos by the base install and by the run under torch: largest difference of a probability, answers that
  differ; bar 1e-4 and none.

Nothing else should run beside it. Result: benchmarks/results/base_install.json.
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

from measured_on import DATA, convcraft_json, hardware, spread, versions, write_result

ROOT = Path(__file__).resolve().parents[1]
SIZE_BAR_MB, START_BAR_SECONDS, DIFFERENCE_BAR = 250, 1.5, 1e-4
NOT_OURS = ("pip", "setuptools", "wheel")
TORCHLESS = ("torch", "torchvision", "timm", "scipy", "pandas", "sklearn", "matplotlib")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished MobileNetV2 run on the photos")
    parser.add_argument("--starts", type=int, default=7, help="processes that are timed")
    arguments = parser.parse_args()
    photos = sorted((DATA / "hymenoptera" / "val").rglob("*.jp*g"))
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        run = arguments.run or finetuned(work / "run")
        bundle = work / "bundles" / f"{run.resolve().name}-onnx-float32.zip"
        convcraft_json("export", str(run), "--out", str(bundle.parent))
        base = base_install(work / "base")
        seconds = [timed_start(base, bundle, photos[0], work / "cache") for _ in range(1 + arguments.starts)]
        ours = answers(base, bundle, photos[0].parents[1], work / "cache")
        theirs = convcraft_json("predict", str(run), str(photos[0].parents[1]), "--top", "2")["predictions"]
        result = {
            "claim": "the base install is small, starts quickly and answers as the run does",
            "megabytes": megabytes(base),
            "packages": packages(base),
            "first_start_seconds": seconds[0],
            "later_start_seconds": spread(seconds[1:]),
            "bundle_megabytes": bundle.stat().st_size / 1e6,
            "photos": len(ours),
            **differences(ours, theirs),
            "bars": {"megabytes": SIZE_BAR_MB, "start_seconds": START_BAR_SECONDS, "difference": DIFFERENCE_BAR},
            "hardware": hardware(),
            "versions": versions("convcraft", "onnxruntime", "numpy", "pillow", "torch"),
        }
    result["met"] = {
        "megabytes": result["megabytes"] <= SIZE_BAR_MB,
        "start_seconds": max(seconds) <= START_BAR_SECONDS,
        "answers": result["largest_difference"] <= DIFFERENCE_BAR and result["other_answers"] == 0,
    }
    print(json.dumps(result["met"]))
    write_result("base_install", result)


def finetuned(out: Path) -> Path:
    weights = DATA / "weights" / "mobilenetv2_100_imagenet.safetensors"
    named = ("--weights", str(weights), "--test-split", "val", "--method", "probe", "--out", str(out))
    convcraft_json("finetune", str(DATA / "hymenoptera"), *named)
    return out


def base_install(folder: Path) -> Path:
    """The environment's folder; without torch, which is checked."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", ROOT], check=True)
    found = f"import importlib.util as u; print([n for n in {TORCHLESS!r} if u.find_spec(n)])"
    there = subprocess.run([python, "-c", found], check=True, capture_output=True, text=True).stdout.strip()
    if there != "[]":
        raise SystemExit(f"the base install has {there}, which it should not need")
    return folder


def megabytes(folder: Path) -> float:
    """Of the files of installed packages, in 10^6 bytes."""
    site = next(folder.glob("lib/python*/site-packages"))
    parts = [part for part in site.iterdir() if not part.name.lower().startswith(NOT_OURS)]
    files = [file for part in parts for file in ([part] if part.is_file() else part.rglob("*")) if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6


def packages(folder: Path) -> list[str]:
    listed = subprocess.run(
        [folder / "bin" / "python", "-m", "pip", "list", "--format=freeze"], check=True, capture_output=True, text=True
    )
    return [line for line in listed.stdout.split() if not line.startswith(NOT_OURS)]


def predict(base: Path, bundle: Path, picture: Path, cache: Path) -> dict[str, Any]:
    command = [base / "bin" / "convcraft", "predict", bundle, picture, "--json", "--quiet", "--top", "2"]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer


def timed_start(base: Path, bundle: Path, picture: Path, cache: Path) -> float:
    began = time.perf_counter()
    predict(base, bundle, picture, cache)
    return time.perf_counter() - began


def answers(base: Path, bundle: Path, folder: Path, cache: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = predict(base, bundle, folder, cache)["predictions"]
    return found


def differences(ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> dict[str, Any]:
    """Largest difference of a probability; pictures with another class, set or reason."""
    if [answer["image"] for answer in ours] != [answer["image"] for answer in theirs]:
        raise SystemExit("the two answered other pictures")
    pairs = list(zip(ours, theirs, strict=True))
    apart = [
        abs(one["probabilities"][name] - other["probabilities"][name])
        for one, other in pairs
        for name in one["probabilities"]
    ]
    same = [all(one[key] == other[key] for key in ("label", "set", "reason")) for one, other in pairs]
    return {"largest_difference": max(apart), "other_answers": same.count(False)}


if __name__ == "__main__":
    main()
