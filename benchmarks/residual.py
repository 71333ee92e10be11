"""Claim: with the same layers, ResNet-34 trains better than its plain twin, and the plain one gets worse with depth.

    python benchmarks/residual.py [--seeds 2] [--epochs 4] [--images-per-class 300] [--threads 1] [--figure]

He et al. 2016 (arXiv 1512.03385, figure 4) on a small budget: ResNet-18/34 and plain-18/34 on CIFAR-10, everything else
the same, through `train`. The networks have the ImageNet stem: at 32x32 pixels their last maps are 1x1, which costs
accuracy in all four alike and makes the runs affordable on one core; absolute accuracies mean little.
A run whose loss is no longer finite counts as behind every run that ended. The result is written after every run; `met`
stays None until all seeds are done.
Recorded after each epoch: the loss on train images (running mean over the epoch's steps) and validation accuracy. Test
images are not touched. --figure draws docs/assets/residual.png from the saved result and trains nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from measured_on import DATA, RESULTS, alike, hardware, spread, stolen_seconds, versions, write_result

NAME = "residual"
NETWORKS = ("resnet18", "plain18", "resnet34", "plain34")
FIGURE = Path(__file__).resolve().parents[1] / "docs" / "assets" / "residual.png"
MARKS = {"resnet18": ("o", "--"), "resnet34": ("o", "-"), "plain18": ("s", "--"), "plain34": ("s", "-")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--images-per-class", type=int, default=300)
    parser.add_argument("--threads", type=int, help="one when other work shares the machine")
    parser.add_argument("--figure", action="store_true", help="draw the saved result")
    arguments = parser.parse_args()
    if arguments.figure:
        draw(json.loads((RESULTS / f"{NAME}.json").read_text(encoding="utf-8")), FIGURE)
        return
    if arguments.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    stolen_before = stolen_seconds()
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in NETWORKS}
    for seed in range(arguments.seeds):
        for name in NETWORKS:
            runs[name].append(train_once(name, seed, arguments.epochs, arguments.images_per_class))
            print(f"seed {seed} {name}: {describe(runs[name][-1])}", flush=True)
            result = {
                "claim": "ResNet-34 ends with lower train loss and higher validation accuracy than plain-34, at every "
                "seed",
                # A network without a finished run has no figures, and no entry.
                "networks": {name: summarise(found) for name, found in runs.items() if finished(found)},
                "diverged": {name: [run for run in found if "diverged" in run] for name, found in runs.items()},
                **judge(runs, arguments.seeds),
                "seeds_done": min(len(found) for found in runs.values()),
                "epochs": arguments.epochs,
                "images_per_class": arguments.images_per_class,
                "threads": alike(run["threads"] for found in runs.values() for run in finished(found)),
                "precision": alike(run["precision"] for found in runs.values() for run in finished(found)),
                "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                "hardware": hardware(),
                "versions": versions("convcraft", "torch", "numpy"),
            }
            write_result(NAME, result)
    draw(result, FIGURE)


def train_once(name: str, seed: int, epochs: int, images_per_class: int) -> dict[str, Any]:
    """One run through `train`, and its curves; or the reason why it diverged."""
    from rich.console import Console

    from convcraft.config import (
        AugmentConfig,
        DataConfig,
        ModelConfig,
        OptimConfig,
        RunConfig,
        ScheduleConfig,
        TrainingConfig,
    )
    from convcraft.training.stops import NonFinite
    from convcraft.workflows.train import train

    config = RunConfig(
        data=DataConfig(source="cifar10", data_dir=str(DATA), labels_per_class=images_per_class, val_fraction=0.02),
        augment=AugmentConfig(horizontal_flip=True),
        model=ModelConfig(name=name),
        optim=OptimConfig(name="sgd", learning_rate=0.05, weight_decay=1e-4),
        schedule=ScheduleConfig(name="one_cycle"),
        training=TrainingConfig(
            epochs=epochs, batch_size=64, select="last", seed=seed, device="cpu", log_every_steps=1
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        try:
            result = train(config, Path(folder) / "run", console=Console(quiet=True))
        except NonFinite as error:
            return {"seed": seed, "diverged": str(error).replace(f"{folder}/run/", "")}
        lines = (result.run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "seed": seed,
        **curves(json.loads(line) for line in lines),
        "seconds": result.train_seconds,
        "threads": result.summary["threads"],
        "precision": result.summary["precision"],
    }


def describe(run: Mapping[str, Any]) -> str:
    """One line on a run."""
    if "diverged" in run:
        return f"diverged: {run['diverged']}"
    loss, accuracy = run["train_loss"][-1], run["val_accuracy"][-1]
    return f"train loss {loss:.3f}, validation accuracy {accuracy:.3f}, {run['seconds']:.0f} s"


def finished(runs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The runs that did not diverge."""
    return [run for run in runs if "diverged" not in run]


def curves(records: Iterable[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Per epoch: mean loss over the train records (one per step), accuracy of the val record."""
    losses: dict[int, list[float]] = {}
    accuracies: dict[int, float] = {}
    for record in records:
        if record["event"] == "train":
            losses.setdefault(record["epoch"], []).append(record["loss"])
        elif record["event"] == "val":
            accuracies[record["epoch"]] = record["accuracy"]
    return {
        "train_loss": [statistics.fmean(losses[epoch]) for epoch in sorted(losses)],
        "val_accuracy": [accuracies[epoch] for epoch in sorted(accuracies)],
    }


def summarise(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The last epoch over the seeds that ended, and the curves of each."""
    runs = finished(runs)
    return {
        "final_train_loss": spread([run["train_loss"][-1] for run in runs]),
        "final_val_accuracy": spread([run["val_accuracy"][-1] for run in runs]),
        "train_seconds": spread([run["seconds"] for run in runs]),
        "runs": list(runs),
    }


def judge(runs: Mapping[str, Sequence[Mapping[str, Any]]], seeds: int) -> dict[str, Any]:
    """Seed by seed, at the last epoch: is the residual 34 ahead of the plain 34, and is plain 34 behind plain 18?

    met is None until every network has its run of every one of the seeds.
    """

    def last(run: Mapping[str, Any]) -> tuple[float, float]:
        """Train loss and validation accuracy; the worst there is where the run diverged."""
        return (math.inf, 0.0) if "diverged" in run else (run["train_loss"][-1], run["val_accuracy"][-1])

    def pairs(better: str, worse: str) -> list[bool]:
        ends = [(last(a), last(b)) for a, b in zip(runs[better], runs[worse], strict=False)]
        return [a[0] < b[0] and a[1] > b[1] for a, b in ends]

    residual_ahead = pairs("resnet34", "plain34")
    done = all(len(found) == seeds for found in runs.values())
    return {
        "resnet34_ahead_of_plain34": residual_ahead,
        "plain34_behind_plain18": pairs("plain18", "plain34"),
        "met": all(residual_ahead) if done else None,
    }


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Train loss and validation accuracy over the epochs: mean line, thin lines for the seeds."""
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    from convcraft.report.plots import BLUE, ORANGE, STYLE

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.0), layout="constrained")
        left, right = figure.subplots(1, 2)
        for axes, curve, title in ((left, "train_loss", "train loss"), (right, "val_accuracy", "validation accuracy")):
            for name, found in result["networks"].items():
                colour = BLUE if name.startswith("resnet") else ORANGE
                mark, line = MARKS[name]
                seeds = [run[curve] for run in found["runs"]]
                epochs = range(1, len(seeds[0]) + 1)
                for values in seeds:
                    axes.plot(epochs, values, line, color=colour, linewidth=0.6, alpha=0.45)
                mean = [statistics.fmean(values) for values in zip(*seeds, strict=True)]
                axes.plot(epochs, mean, line, color=colour, marker=mark, markersize=3.5, linewidth=1.6, label=name)
            axes.set(title=title, xlabel="epoch")
            axes.grid(axis="y")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        right.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol=" %"))
        left.legend(loc="best")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
