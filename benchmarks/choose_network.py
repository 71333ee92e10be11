"""Study: what kernel size, depth, width and pooling do to a small network on MNIST.

    python benchmarks/choose_network.py [--seeds 2] [--threads 1] [--table]

Each cell trains the recipe study-mnist (10,000 images, two epochs) with one thing changed, through `train`. Accuracy is
of the 5,000 validation images: the study chooses networks, and what chooses may not see test images. Cost is counted
(parameters, multiply-adds, receptive field) beside the seconds measured. --table prints the Markdown table of
docs/choosing.md from the saved result and trains nothing; --costs prints what is counted, which needs no run. The
result is written after every run; `complete` says whether all were done. A run whose loss is no longer finite counts as
diverged.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from measured_on import DATA, RESULTS, alike, hardware, spread, stolen_seconds, versions, write_result

NAME = "choose_network"
BASE: dict[str, Any] = {"widths": [16, 32, 64], "convs_per_stage": 1}  # as in the recipe study-mnist
CELLS: dict[str, dict[str, dict[str, Any]]] = {  # question -> choice -> what differs from BASE
    "kernel size": {
        "1x1": {"kernel_size": 1},
        "3x3 (base)": {},
        "5x5": {"kernel_size": 5},
        "7x7": {"kernel_size": 7},
    },
    "depth: convolutions per stage": {
        "1 (base)": {},
        "2": {"convs_per_stage": 2},
        "3": {"convs_per_stage": 3},
    },
    "depth: stages": {
        "1": {"widths": [16]},
        "2": {"widths": [16, 32]},
        "3 (base)": {},
        "4": {"widths": [16, 32, 64, 128]},
    },
    "width of the first stage (doubled at each stage)": {
        "8": {"widths": [8, 16, 32]},
        "16 (base)": {},
        "32": {"widths": [32, 64, 128]},
        "64": {"widths": [64, 128, 256]},
    },
    "between stages": {
        "max pooling (base)": {},
        "average pooling": {"downsampling": "avg"},
        "stride 2": {"downsampling": "stride"},
    },
    "before the classes": {
        "global average (base)": {},
        "global maximum": {"pooling": "max"},
        "flatten, 64 units": {"hidden": 64},
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, help="one when other work shares the machine")
    parser.add_argument("--table", action="store_true", help="print the table of the saved result")
    parser.add_argument("--costs", action="store_true", help="print the counted columns alone")
    arguments = parser.parse_args()
    if arguments.costs:
        print(costs_table())
        return
    if arguments.table:
        print(table(json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8"))))
        return
    if arguments.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    stolen_before = stolen_seconds()
    for runs in measure(arguments.seeds):
        cells = {key: summarise(changes, runs[key]) for key, changes in different_networks().items()}
        everything = [run for found in runs.values() for run in found if "diverged" not in run]
        write_result(
            NAME,
            {
                "claim": "kernel size, depth, width, pooling: validation accuracy and cost, one changed at a time",
                "base": BASE,
                "seeds_done": min(len(found) for found in runs.values()),
                "complete": all(len(found) == arguments.seeds for found in runs.values()),
                "questions": {
                    question: {choice: cells[_key(changes)] for choice, changes in choices.items()}
                    for question, choices in CELLS.items()
                },
                "threads": alike(run["threads"] for run in everything),
                "precision": alike(run["precision"] for run in everything),
                "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
                "hardware": hardware(),
                "versions": versions("convcraft", "torch", "numpy"),
            },
        )


def different_networks() -> dict[str, dict[str, Any]]:
    """Every network once, however many questions it answers."""
    return {_key(changes): changes for choices in CELLS.values() for changes in choices.values()}


def measure(seeds: int) -> Iterator[dict[str, list[dict[str, Any]]]]:
    """Every network once per seed, seed by seed: no busy hour meets one cell alone. Yields all runs so far."""
    found: dict[str, list[dict[str, Any]]] = {key: [] for key in different_networks()}
    for seed in range(seeds):
        for key, changes in different_networks().items():
            run = train_once(changes, seed)
            found[key].append(run)
            said = run.get("diverged") or f"validation accuracy {run['accuracy']:.4f}, {run['seconds']:.1f} s"
            print(f"seed {seed} {key}: {said}", flush=True)
            yield found


def summarise(changes: Mapping[str, Any], runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One cell: figures of the runs that ended (None where there is none), and what is counted."""
    ended = [run for run in runs if "diverged" not in run]
    return {
        "changes": changes,
        "validation_accuracy": spread([run["accuracy"] for run in ended]) if ended else None,
        "train_seconds": spread([run["seconds"] for run in ended]) if ended else None,
        "diverged": len(runs) - len(ended),
        **cost_of(changes),
    }


def train_once(changes: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """One run of the recipe with these model.args, as `convcraft train` does it; or the reason why it diverged."""
    from rich.console import Console

    from convcraft.recipes.catalogue import load_recipe
    from convcraft.training.stops import NonFinite
    from convcraft.workflows.train import train

    recipe = load_recipe("study-mnist")
    config = recipe.changed(
        data={"data_dir": str(DATA)}, model={"args": {**BASE, **changes}}, training={"seed": seed, "device": "cpu"}
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = train(config, Path(folder) / "run", console=Console(quiet=True))
        except NonFinite as error:
            return {"diverged": str(error).replace(f"{folder}/run/", "")}
    assert result.report is not None  # the recipe keeps a validation part
    summary = result.summary
    return {
        "accuracy": result.report.accuracy,
        "seconds": result.train_seconds,
        "threads": summary["threads"],
        "precision": summary["precision"],
    }


def cost_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters, multiply-adds per image and the receptive field of the last maps."""
    from convcraft.models.summary import features_field, summarise
    from convcraft.models.vgg_small import VGGSmall

    rows = summarise(VGGSmall(10, 1, (28, 28), **{**BASE, **changes}), (28, 28), 1)
    field = features_field(rows)
    return {
        "parameters": sum(row.parameters for row in rows),
        "multiply_adds": sum(row.multiply_adds for row in rows),
        "receptive_field_pixels": None if field is None else field[0],
    }


def table(result: Mapping[str, Any]) -> str:
    """The Markdown table: one row per choice, accuracy in per cent with the sample standard deviation."""
    header = "question, choice, validation accuracy, parameters, multiply-adds per image, receptive field, seconds"
    lines = ["| " + header.replace(", ", " | ") + " |", "|---|---|---|---|---|---|---|"]
    for question, choices in result["questions"].items():
        for number, (choice, cell) in enumerate(choices.items()):
            lines.append(_row(question if number == 0 else "", choice, cell))
    return "\n".join(lines)


def costs_table() -> str:
    """The counted columns as Markdown: exact, the same on every machine."""
    lines = ["| question | choice | parameters | multiply-adds per image | receptive field |", "|---|---|---|---|---|"]
    for question, choices in CELLS.items():
        for number, (choice, changes) in enumerate(choices.items()):
            cost = cost_of(changes)
            side, multiply_adds = cost["receptive_field_pixels"], f"{cost['multiply_adds'] / 1e6:.2f} M"
            cells = (
                question if number == 0 else "",
                choice,
                f"{cost['parameters']:,}",
                multiply_adds,
                f"{side}x{side}",
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _row(question: str, choice: str, cell: Mapping[str, Any]) -> str:
    accuracy, seconds, side = cell["validation_accuracy"], cell["train_seconds"], cell["receptive_field_pixels"]
    said = "" if accuracy is None else f"{100 * accuracy['mean']:.2f}"
    if accuracy is not None:
        said += f" ± {100 * accuracy['std']:.2f} %" if accuracy["std"] is not None else " %"
    if cell.get("diverged"):
        said = f"{said} ({cell['diverged']} diverged)".strip()
    cells: Sequence[str] = (
        question,
        choice,
        said,
        f"{cell['parameters']:,}",
        f"{cell['multiply_adds'] / 1e6:.2f} M",
        "" if side is None else f"{side}x{side}",
        "" if seconds is None else f"{seconds['mean']:.1f}",
    )
    return "| " + " | ".join(cells) + " |"


def _key(changes: Mapping[str, Any]) -> str:
    """The base is one network, however many questions it answers."""
    return ", ".join(f"{name} {value}" for name, value in changes.items()) or "base"


if __name__ == "__main__":
    main()
