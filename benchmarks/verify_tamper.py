"""Claim: whatever is changed in an evaluated run, `convcraft verify` fails and names the file; untouched runs pass.

    python benchmarks/verify_tamper.py [--places 8] [--epochs 2]

A run on scikit-learn's digits is trained and evaluated. One bit is flipped at random places of every file that a figure
hangs on (weights, predictions, figures, split, classes ...) and of the seal and the record of openings; files are
emptied and removed. Then files are forged and the folder is sealed anew, as somebody would who knows the format. Every
change counts as found only if the file that was changed is named. Between the changes the untouched run must pass.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from measured_on import hardware, versions, write_result
from rich.console import Console
from safetensors.numpy import load_file, save_file

from convcraft.config import RunConfig
from convcraft.data.durable_files import read_json, write_json
from convcraft.evaluation.saved_predictions import SavedPredictions
from convcraft.training.run_folder import EVALUATION, PREDICTIONS, SUMMARY, read_run
from convcraft.workflows.checks import Verification
from convcraft.workflows.evaluate import evaluate, figures_of
from convcraft.workflows.seal import SEAL, seal
from convcraft.workflows.test_reads import TEST_READS
from convcraft.workflows.train import train
from convcraft.workflows.verify import verify

QUIET = Console(quiet=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--places", type=int, default=8, help="bits flipped in each file")
    parser.add_argument("--epochs", type=int, default=2)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        config = RunConfig().changed(data={"source": "digits"}, training={"epochs": asked.epochs, "device": "cpu"})
        train(config, run, console=QUIET)
        evaluate(run, console=QUIET)
        clean = [verify(run, device="cpu", console=QUIET).passed]
        random = np.random.default_rng(0)
        flips = {name: flipped(run, name, asked.places, random) for name in [*sealed(run), SEAL, TEST_READS]}
        clean.append(verify(run, device="cpu", console=QUIET).passed)
        forged = {name: found_in_copy(run, Path(folder) / "forged", *forgery) for name, forgery in FORGERIES.items()}
        clean.append(verify(run, device="cpu", console=QUIET).passed)
    tried = sum(entry["tried"] for entry in flips.values()) + len(forged)
    found = sum(entry["found"] for entry in flips.values()) + sum(forged.values())
    write_result(
        "verify_tamper",
        {
            "command": f"python benchmarks/verify_tamper.py --places {asked.places} --epochs {asked.epochs}",
            "claim": "every change to an evaluated run is found and its file named; untouched runs pass",
            "bars": {
                "changes found and named, of all": {"found": found / tried, "met": found == tried},
                "untouched runs that pass": {"found": sum(clean) / len(clean), "met": all(clean)},
            },
            "num_changes": tried,
            "changed_bits_and_missing_files": flips,
            "forged_and_sealed_anew": forged,
            "hardware": hardware(),
            "versions": versions("convcraft", "torch", "numpy"),
        },
    )
    print(f"{found} of {tried} changes found and named; untouched runs passed {sum(clean)} of {len(clean)} times")


def sealed(run: Path) -> list[str]:
    return list(read_json(run / SEAL)["files"])


def named(result: Verification, file: str) -> bool:
    return not result.passed and file in {check.file for check in result.checks if check.outcome == "failed"}


def flipped(run: Path, name: str, places: int, random: np.random.Generator) -> dict[str, int]:
    """Bits flipped in one file, the file emptied, the file removed; how often verify named it."""
    path = run / name
    whole = path.read_bytes()
    found = 0
    for place in random.integers(0, len(whole), places):
        bit = 1 << int(random.integers(0, 8))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        found += by_file(run, name)
    path.write_bytes(b"")
    found += by_file(run, name)
    path.unlink()
    found += by_file(run, name)
    path.write_bytes(whole)
    return {"tried": places + 2, "found": found}


def by_file(run: Path, name: str) -> bool:
    """Found without the data. The record of openings and the seal vouch for each other: either may be named."""
    result = verify(run, with_data=False, console=QUIET)
    return named(result, name) or (name in (SEAL, TEST_READS) and (named(result, SEAL) or named(result, TEST_READS)))


# Forgeries, each sealed anew ------------------------------------------------------------------------------------------


def better_accuracy(run: Path) -> None:
    write_json(run / EVALUATION, {**read_json(run / EVALUATION), "accuracy": 0.9999})


def perfect_predictions(run: Path) -> None:
    """With every figure computed from them, as if they had been evaluated."""
    saved = SavedPredictions.load(run / PREDICTIONS)
    right = 9.0 * np.eye(saved.logits.shape[1], dtype=np.float32)[saved.targets]
    publish(run, replace(saved, logits=right))


def two_labels_exchanged(run: Path) -> None:
    saved = SavedPredictions.load(run / PREDICTIONS)
    targets = saved.targets.copy()
    other = int(np.flatnonzero(targets != targets[0])[0])
    targets[[0, other]] = targets[[other, 0]]
    publish(run, replace(saved, targets=targets))


def publish(run: Path, saved: SavedPredictions) -> None:
    content = saved.to_bytes()
    (run / PREDICTIONS).write_bytes(content)
    figures: dict[str, Any] = figures_of(saved, read_run(run), None).to_dict()
    figures["predictions_sha256"] = hashlib.sha256(content).hexdigest()
    write_json(run / EVALUATION, {**read_json(run / EVALUATION), **figures})


def other_weights(run: Path) -> None:
    """One weight moved, in the file alone."""
    summary = read_json(run / SUMMARY)
    path = run / "checkpoints" / summary["checkpoint"] / summary["weights_file"]
    tensors = load_file(path)
    name = next(iter(tensors))
    tensors[name].flat[0] += 1.0
    save_file(tensors, path)


def classes_exchanged(run: Path) -> None:
    names = read_json(run / "classes.json")
    write_json(run / "classes.json", [names[1], names[0], *names[2:]])


def other_split(run: Path) -> None:
    data = read_json(run / "data.json")
    write_json(run / "data.json", {**data, "sha256": {**data["sha256"], "test": data["sha256"]["val"]}})


FORGERIES: dict[str, tuple[Callable[[Path], None], str]] = {
    "accuracy raised in evaluation.json": (better_accuracy, EVALUATION),
    "perfect predictions with figures to match": (perfect_predictions, PREDICTIONS),
    "two labels exchanged with figures to match": (two_labels_exchanged, PREDICTIONS),
    "one weight moved": (other_weights, "weights"),
    "two class names exchanged": (classes_exchanged, EVALUATION),
    "another split named as test": (other_split, "data.json"),
}


def found_in_copy(run: Path, place: Path, forge: Callable[[Path], None], file: str) -> bool:
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(run, place)
    forge(place)
    seal(place)
    result = verify(place, device="cpu", console=QUIET)
    if file == "weights":  # refused by the checkpoint's own manifest, which names the file
        return not result.passed and any("safetensors" in check.detail for check in result.checks)
    return named(result, file)


if __name__ == "__main__":
    main()
