"""Claim: a run that is killed at any moment and resumed ends with the very weights and log of one that never stopped.

    python benchmarks/kill_resume.py [--kills 20]

A digits run that saves after every step (so that many kills fall into the writing of a checkpoint) gets SIGKILL at
seeded random moments, is resumed until it is done, and its final weights (SHA-256) and metrics.jsonl are compared with
those of a run that was left alone. Then every kind of damage (cuts, bit flips, missing, empty, stale files) is done to
the newest checkpoint of a finished run, and what loading does about it is counted.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from measured_on import convcraft_json, hardware, versions, write_result

from convcraft.training.checkpoint import load_newest, saved_checkpoints

COMMAND = [
    *("train", "digits", "--epochs", "3", "--set", "training.checkpoint_seconds=0"),
    *("--set", "training.ema_decay=0.95", "--set", "model.dropout=0.2"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    draw = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        left_alone = Path(folder) / "left-alone"
        started = time.monotonic()
        expected = convcraft_json(*COMMAND, "--out", str(left_alone))
        first_save, whole_seconds = _first_save_seconds(left_alone, started), time.monotonic() - started
        killed, identical = [], 0
        while len(killed) < arguments.kills:
            run = Path(folder) / f"killed-{len(killed)}"
            moments = _kill_until_done(run, draw, first_save * 0.5, whole_seconds, arguments.kills - len(killed))
            if not moments:  # every draw fell behind the end of the run
                shutil.rmtree(run)
                continue
            result = convcraft_json(*COMMAND, "--out", str(run), "--resume")
            same = result["weights_sha256"] == expected["weights_sha256"] and _log(run) == _log(left_alone)
            identical += len(moments) if same else 0
            killed += moments
            print(f"{len(killed)} kills, {identical} with identical weights and log; last at {moments[-1]}")
        damages, detected = _count_damages(left_alone / "checkpoints", draw)
    write_result(
        "kill_resume",
        {
            "claim": "20 kills: identical weights and log; every damage to the newest checkpoint is detected",
            "kills": len(killed),
            "identical": identical,
            "moments": killed,
            "damage_kinds": ["cut", "bit flip", "missing file", "empty file", "stale or empty latest.json"],
            "damages": damages,
            "detected": detected,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "safetensors"),
        },
    )
    if identical != len(killed) or detected != damages:
        raise SystemExit(1)


def _first_save_seconds(run: Path, started: float) -> float:
    """How long after its start a run begins to save: log lines carry no times, the tensorboard folder does."""
    return (run / "config.yaml").stat().st_mtime - (time.time() - (time.monotonic() - started))


def _kill_until_done(
    run: Path, draw: random.Random, earliest: float, whole_seconds: float, most: int
) -> list[dict[str, object]]:
    """Start, kill, resume, kill ... up to three times; what was there at each kill."""
    moments: list[dict[str, object]] = []
    for _ in range(min(3, most)):
        wait = draw.uniform(earliest, whole_seconds)
        command = [sys.executable, "-m", "convcraft", *COMMAND, "--out", str(run), "--resume", "--quiet"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            process.wait(timeout=wait)
            break  # it was done before the kill
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        checkpoints = run / "checkpoints"
        steps = [folder.name for folder in saved_checkpoints(checkpoints)] if checkpoints.is_dir() else []
        writing = bool(list(checkpoints.glob("*.tmp"))) if checkpoints.is_dir() else False
        moments.append(
            {"after_seconds": round(wait, 2), "newest": steps[0] if steps else None, "while_writing": writing}
        )
    return moments


def _log(run: Path) -> str:
    return hashlib.sha256((run / "metrics.jsonl").read_bytes()).hexdigest()


def _count_damages(checkpoints: Path, draw: random.Random) -> tuple[int, int]:
    """(damages done, damages after which the newest checkpoint was passed over or, for latest.json, still found)."""
    newest, older = saved_checkpoints(checkpoints)[:2]
    intact = checkpoints.parent / "intact"
    shutil.copytree(newest, intact)
    done = detected = 0
    for damage in _damages(newest, draw):
        damage()
        done += 1
        loaded, problems = load_newest(checkpoints)
        detected += loaded.name == older.name and len(problems) == 1
        shutil.rmtree(newest)
        shutil.copytree(intact, newest)
    for content in ("", "{", json.dumps({"folder": older.name}), json.dumps({"folder": "step-99999999-epoch-0001"})):
        (checkpoints / "latest.json").write_text(content)
        done += 1
        detected += load_newest(checkpoints)[0].name == newest.name
    return done, detected


def _damages(folder: Path, draw: random.Random) -> Iterator[Callable[[], object]]:
    """Plan T2: 50 cuts, 200 bit flips, and each file missing and empty."""
    files = sorted(folder.iterdir())
    for _ in range(50):
        file = draw.choice(files)
        length = draw.randrange(file.stat().st_size)
        yield lambda f=file, n=length: os.truncate(f, n)
    for _ in range(200):
        file = draw.choice(files)
        place, bit = draw.randrange(file.stat().st_size), draw.randrange(8)
        yield lambda f=file, p=place, b=bit: _flip(f, p, b)
    for file in files:
        yield file.unlink
        yield lambda f=file: f.write_bytes(b"")


def _flip(file: Path, place: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1 << bit
    file.write_bytes(data)


if __name__ == "__main__":
    main()
