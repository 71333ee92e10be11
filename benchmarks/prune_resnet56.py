"""Claim: half of the multiply-adds of the CIFAR ResNet-56 can go for at most 1.5 points, and 1.6 times the speed.

    CONVCRAFT_DATA=DATA python benchmarks/prune_resnet56.py [--runs FOLDER] [--threads N]
    CONVCRAFT_DATA=DATA python benchmarks/prune_resnet56.py --images-per-class 60 --epochs 1 1 --test-images 500

The published weights were trained on other pixels than these JPEG files, so they are adapted first; what is pruned, and
what pruning is compared with, has seen the same images equally often:

- published: the weights as they are, for the record.
- before: they learn from the train images for 5 epochs. 5,000 of the 50,000 are kept back as validation.
- pruned: `convcraft compress before --prune 0.5 --distil`, 10 epochs more.
- longer: before learns for 10 epochs more as well, by the same optimiser and schedule, unpruned. The loss in points is
  counted from the better of before and longer.

The test images judge each of the four once, at the end; nothing is chosen by them. Speed is torch's, eager, float32, in
turns; at each batch size the faster of both memory layouts counts for either network, with batch norms as they are and
folded into the convolutions. Beside that: what is left of the accuracy on validation images right after pruning, before
any training, for importance by Taylor gates, by weights (group L2) and by batch norms' factors, channels alone.

Result: benchmarks/results/prune_resnet56.json.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from measured_on import DATA, hardware, stolen_seconds, versions, write_result
from numpy.typing import NDArray
from rich.console import Console
from torch import nn
from torch.nn.functional import cross_entropy

from convcraft.config import RunConfig
from convcraft.data.dataset import open_test_data
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import eval_batches
from convcraft.deploy.compress.channels import Cost, Limits, prune_channels
from convcraft.deploy.compress.groups import ChannelGroup, find_groups
from convcraft.deploy.compress.importance import Importance, Thinning, measure_importance
from convcraft.deploy.compress.timing import ROUND_SECONDS
from convcraft.models.batch_norm_folding import fold_batch_norms
from convcraft.models.weights import load_weights
from convcraft.statistics import mcnemar_exact, paired_difference_interval, wilson_interval
from convcraft.training.run_folder import RunDescription, read_run, read_summary
from convcraft.workflows.compress import compress
from convcraft.workflows.compress_settings import choose_compression
from convcraft.workflows.evaluate_held_out import open_held_out
from convcraft.workflows.load_model import load_model
from convcraft.workflows.network_outputs import logits_of
from convcraft.workflows.train import train

WEIGHTS = DATA / "weights" / "resnet56_cifar10.safetensors"
POINTS_BAR, SPEED_BAR, LEFT = 0.015, 1.6, 0.5
BATCH_SIZES, ROUNDS = (1, 64), 15
SHAPE = (3, 32, 32)
IMPORTANCE_IMAGES, JUDGING_IMAGES = 1000, 2000
LOUD = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here; finished ones are reused")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: all cores")
    parser.add_argument("--epochs", type=int, nargs=2, default=(5, 10), metavar=("ADAPT", "AFTERWARDS"))
    parser.add_argument("--images-per-class", type=int, default=None, help="a trial: so few train images")
    parser.add_argument("--test-images", type=int, default=None, help="a trial: so few test images")
    asked = parser.parse_args()
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    stolen_before, began = stolen_seconds(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = asked.runs or Path(temporary)
        runs = make_runs(folder, asked)
        networks = {name: load_model(run)[0] for name, run in runs.items()}
        networks["published"] = copy.deepcopy(networks["before"])
        load_weights(networks["published"], WEIGHTS)
        accuracies, paired = judge(runs, networks, asked.test_images)
        timed = {name: networks[name] for name in ("before", "pruned")}
        speeds = [speed_of(timed, batch_size) for batch_size in BATCH_SIZES]
        costs = {name: Cost.of(network, SHAPE).to_dict() for name, network in networks.items()}
        files = {name: weights_file(run).stat().st_size for name, run in runs.items()}
        bars = {
            "points_lost": max(accuracies["before"]["accuracy"], accuracies["longer"]["accuracy"])
            - accuracies["pruned"]["accuracy"],
            "speed": min(speed["times"] for speed in speeds),
            "multiply_adds_left": costs["pruned"]["multiply_adds"] / costs["before"]["multiply_adds"],
            "file_bytes_left": files["pruned"] / files["before"],
        }
        met = {
            "points_lost": bars["points_lost"] <= POINTS_BAR,
            "speed": bars["speed"] >= SPEED_BAR,
            "multiply_adds_left": bars["multiply_adds_left"] <= LEFT,
            "file_bytes_left": bars["file_bytes_left"] < 1,
        }
        write_result(
            "prune_resnet56" if asked.images_per_class is None else "prune_resnet56_trial",
            {
                "claim": "half of ResNet-56's multiply-adds go for at most 1.5 points and at least 1.6 times the speed",
                "bars": bars,
                "met": met,
                "epochs": {"adapt": asked.epochs[0], "afterwards": asked.epochs[1]},
                "images_per_class": asked.images_per_class,
                "test": accuracies,
                "pruned_against": paired,
                "costs": costs,
                "file_bytes": files,
                "speed": speeds,
                "blocks_left_out": [path for path, sizes in runs["pruned"].config.model.pruned.items() if not sizes],
                "right_after_pruning": right_after_pruning(runs["before"], networks["before"]),
                "train_seconds": {name: read_summary(run.folder)["train_seconds"] for name, run in runs.items()},
                "seconds": time.monotonic() - began,
                "threads": torch.get_num_threads(),
                "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                "hardware": hardware(),
                "versions": versions("convcraft", "torch", "numpy", "torch-pruning"),
            },
        )


# Runs ---------------------------------------------------------------------------------------------------------------


def make_runs(folder: Path, asked: argparse.Namespace) -> dict[str, RunDescription]:
    """The networks that learn here, as runs."""
    adapt, afterwards = asked.epochs
    base = RunConfig().changed(
        data={"source": "cifar10", "data_dir": str(DATA), "labels_per_class": asked.images_per_class},
        preprocess={"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        augment={"crop_padding_pixels": 4, "horizontal_flip": True},
        model={"name": "resnet56_cifar", "weights": str(WEIGHTS)},
        optim={"learning_rate": 1e-3},
        schedule={"warmup_epochs": 0.1},
        training={"select": "last", "seed": 0},
    )
    if asked.images_per_class is not None:
        base = base.changed(data={"val_fraction": 0.01})
    learn(base.changed(training={"epochs": adapt}), folder / "before")
    pruned = choose_compression(
        folder / "before", prune=1 - LEFT, distil=True, training_settings={"epochs": afterwards}
    )
    if not (folder / "pruned" / "summary.json").exists():
        compress(pruned, folder / "pruned", resume=(folder / "pruned").exists(), console=LOUD)
    longer = base.changed(model={"weights": str(weights_file(read_run(folder / "before")))})
    longer = longer.changed(
        optim={"learning_rate": pruned.optim.learning_rate},
        schedule={"warmup_epochs": pruned.schedule.warmup_epochs},
        training={"epochs": afterwards},
    )
    learn(longer, folder / "longer")
    return {name: read_run(folder / name) for name in ("before", "pruned", "longer")}


def learn(config: RunConfig, run: Path) -> None:
    if not (run / "summary.json").exists():
        train(config, run, resume=run.exists(), console=LOUD)


def weights_file(run: RunDescription) -> Path:
    summary = read_summary(run.folder)
    return run.folder / "checkpoints" / summary["checkpoint"] / summary["weights_file"]


# Accuracy -----------------------------------------------------------------------------------------------------------


def judge(
    runs: dict[str, RunDescription], networks: dict[str, nn.Module], test_images: int | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Accuracy of each on the test images, and the pruned network's difference from the two unpruned ones."""
    run = runs["before"]
    test = open_test_data(run.config.data, run.classes, run.preprocess, run.data["sha256"]["test"])
    test = test if test_images is None else test.subset(np.arange(min(test_images, len(test))))
    right = {name: logits_of(network, test).argmax(axis=1) == test.targets for name, network in networks.items()}
    accuracies = {
        name: {
            "accuracy": float(correct.mean()),
            "interval": wilson_interval(int(correct.sum()), len(correct)),
            "num_images": len(correct),
            "per_class": {
                label: float(correct[test.targets == index].mean()) for index, label in enumerate(run.classes)
            },
        }
        for name, correct in right.items()
    }
    paired = {
        name: {
            "difference": mcnemar_exact(right[name], right["pruned"]).difference,
            "interval": paired_difference_interval(right[name], right["pruned"]),
            "p_value": mcnemar_exact(right[name], right["pruned"]).p_value,
        }
        for name in ("before", "longer")
    }
    return accuracies, paired


def right_after_pruning(run: RunDescription, network: nn.Module) -> dict[str, Any]:
    """Accuracy on validation images with half of the work gone and nothing learned since, by importance."""
    opened = open_held_out(run)
    assert opened is not None
    train_images, val = (images.subset(np.arange(min(number, len(images)))) for images, number in
                         zip(opened, (IMPORTANCE_IMAGES, JUDGING_IMAGES), strict=True))  # fmt: skip
    groups = find_groups(network, SHAPE).sound
    by_taylor = measure_importance(network, groups, (), eval_batches(train_images, 50, 0), cross_entropy)
    orders = {
        "taylor": by_taylor.thinning,
        "magnitude": by_torch_pruning(network, groups, "magnitude"),
        "scale": by_torch_pruning(network, groups, "scale"),
    }
    found: dict[str, Any] = {"unpruned": accuracy_of(network, val), "num_images": len(val)}
    for name, thinning in orders.items():
        pruned = prune_channels(network, SHAPE, groups, Importance(tuple(thinning), {}), left=LEFT, limits=Limits())
        found[name] = accuracy_of(pruned.network, val)
    return found


def by_torch_pruning(network: nn.Module, groups: Sequence[ChannelGroup], kind: str) -> list[Thinning]:
    """torch-pruning's own importances: squares of weights, or of batch norms' factors, over the group's mean."""
    import torch_pruning

    scorers = {
        "magnitude": torch_pruning.importance.GroupMagnitudeImportance(p=2),
        "scale": torch_pruning.importance.BNScaleImportance(),
    }
    graph = torch_pruning.DependencyGraph().build_dependency(network, torch.zeros(1, *SHAPE), verbose=False)
    found = []
    for group in groups:
        root = network.get_submodule(group.root)
        prune = graph.get_pruner_of_module(root).prune_out_channels
        scores = scorers[kind](graph.get_pruning_group(root, prune, list(range(len(group.units))))).double().numpy()
        order = np.argsort(scores, kind="stable")
        found.append(Thinning(order, np.concatenate([[0.0], np.cumsum(scores[order])])))
    return found


def accuracy_of(network: nn.Module, images: ImageSet) -> float:
    correct: NDArray[np.bool_] = logits_of(network, images).argmax(axis=1) == images.targets
    return float(correct.mean())


# Speed --------------------------------------------------------------------------------------------------------------


@torch.inference_mode()
def speed_of(networks: dict[str, nn.Module], batch_size: int) -> dict[str, Any]:
    """Milliseconds per batch, in turns: plain and folded, in both memory layouts; how many times faster the best is."""
    layouts = {"channels first": torch.contiguous_format, "channels last": torch.channels_last}
    forms = {}
    for (name, network), (layout, memory_format) in product(networks.items(), layouts.items()):
        plain = copy.deepcopy(network)
        folded = fold_batch_norms(network, torch.randn(2, *SHAPE))
        for form, each in (("plain", plain), ("folded", folded)):
            images = torch.rand(batch_size, *SHAPE).to(memory_format=memory_format)
            forms[name, form, layout] = each.eval().to(memory_format=memory_format), images
    seconds: dict[tuple[str, str, str], list[float]] = {key: [] for key in forms}
    repeats = {}
    for key, (network, images) in forms.items():
        network(images)
        begun = time.perf_counter()
        network(images)
        repeats[key] = max(1, round(ROUND_SECONDS / (time.perf_counter() - begun)))
    for _ in range(ROUNDS):
        for key, (network, images) in forms.items():
            begun = time.perf_counter()
            for _ in range(repeats[key]):
                network(images)
            seconds[key].append((time.perf_counter() - begun) / repeats[key])
    taken = {key: 1000 * median(values) for key, values in seconds.items()}
    times = {}
    for form in ("plain", "folded"):
        best = {name: min(taken[name, form, layout] for layout in layouts) for name in networks}
        times[form] = best["before"] / best["pruned"]
    return {
        "batch_size": batch_size,
        "times": times["plain"],
        "times_folded": times["folded"],
        "milliseconds": {", ".join(key): value for key, value in taken.items()},
    }


if __name__ == "__main__":
    main()
