"""Claim: what rounding to 8 bits ruins is learned back by `compress --int8`, and not by as many plain epochs.

    CONVCRAFT_DATA=DATA python benchmarks/int8_training.py [--runs FOLDER] [--threads N]
    CONVCRAFT_DATA=DATA python benchmarks/int8_training.py --images-per-class 40 --epochs 1 1 --test-images 100

ResNet-20 on CIFAR-10. Rounding costs it little as it is; what 8 bits ruin are networks whose channels are of very
unlike size, as one range serves all channels of a map. So one is made of it that computes the same in float32 (Nagel
et al. 2019, arXiv:1906.04721, section 4.1, read backwards). Runs:

- even: the published weights learn from the train images for 1 epoch.
- before: the same network; what each block's first layer gives is multiplied channel by channel by up to 16 or divided
  by it, and its second layer divides what it reads.
- int8: `convcraft compress before --int8`, 3 epochs.
- longer: before learns on for 3 epochs as well, by the same optimiser, rate and schedule, but without rounding.

The test images judge each once: in float32, and in int8 as ONNX Runtime and OpenVINO compute the plain export, in which
no layer is given back to float32, and as `Int8Answers` foresees it. Nothing is chosen by them.

Result: benchmarks/results/int8_training.json.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measured_on import DATA, hardware, stolen_seconds, versions, write_result
from numpy.typing import NDArray
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.data.dataset import open_test_data
from convcraft.data.image_set import ImageSet
from convcraft.data.spread import spread
from convcraft.deploy.compress.int8_answers import Int8Answers
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.judges import session_outputs
from convcraft.statistics import mcnemar_exact, paired_difference_interval, wilson_interval
from convcraft.training.run_folder import RunDescription, read_run, read_summary
from convcraft.workflows.compress import compress
from convcraft.workflows.compress_settings import choose_compression
from convcraft.workflows.export_images import export_images
from convcraft.workflows.load_model import load_model
from convcraft.workflows.network_outputs import logits_of
from convcraft.workflows.train import train

NETWORK = "resnet20_cifar"
WEIGHTS = DATA / "weights" / "resnet20_cifar10.safetensors"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # what the weights were trained on
LARGEST_DOUBLINGS = 4.0
RUNTIMES = ("onnx", "openvino")
LOUD = Console(stderr=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=None, help="keep the run folders here; finished ones are reused")
    parser.add_argument("--threads", type=int, default=None, help="of torch; default: all cores")
    parser.add_argument("--epochs", type=int, nargs=2, default=(1, 3), metavar=("FIRST", "AFTERWARDS"))
    parser.add_argument("--images-per-class", type=int, default=None, help="fewer: a trial")
    parser.add_argument("--test-images", type=int, default=10_000, help="so many, evenly spread")
    asked = parser.parse_args()
    if asked.threads is not None:
        torch.set_num_threads(asked.threads)
    stolen_before, began = stolen_seconds(), time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        runs = make_runs(asked.runs or Path(temporary), asked)
        test = test_images(runs["before"], asked.test_images)
        right = {name: judge(run, test) for name, run in runs.items()}
        against = {form: paired(right["longer"][f"{form} int8"], right["int8"][f"{form} int8"]) for form in RUNTIMES}
        write_result(
            "int8_training" if asked.images_per_class is None else "int8_training_trial",
            {
                "claim": "what 8 bits ruin is learned back by compress --int8, not by as many plain epochs",
                "met": {form: bool(found["interval"][0] > 0) for form, found in against.items()},
                "network": NETWORK,
                "epochs": {"first": asked.epochs[0], "afterwards": asked.epochs[1]},
                "images_per_class": asked.images_per_class,
                "test": {name: {way: share(row) for way, row in rows.items()} for name, rows in right.items()},
                "int8_against_longer": against,
                "train_seconds": {name: read_summary(run.folder)["train_seconds"] for name, run in runs.items()},
                "seconds": time.monotonic() - began,
                "threads": torch.get_num_threads(),
                "stolen_cpu_seconds": round(stolen_seconds() - stolen_before, 1),
                "hardware": hardware(),
                "versions": versions("convcraft", "torch", "timm", "numpy", "onnxruntime", "openvino", "nncf"),
            },
        )


def make_runs(folder: Path, asked: argparse.Namespace) -> dict[str, RunDescription]:
    first, afterwards = asked.epochs
    base = RunConfig().changed(
        data={"source": "cifar10", "data_dir": str(DATA), "labels_per_class": asked.images_per_class},
        preprocess={"mean": MEAN, "std": STD},
        augment={"crop_padding_pixels": 4, "horizontal_flip": True},
        model={"name": NETWORK, "weights": str(WEIGHTS)},
        optim={"learning_rate": 1e-3},
        schedule={"warmup_epochs": 0.1},
        training={"select": "last", "seed": 0},
    )
    if asked.images_per_class is not None:
        base = base.changed(data={"val_fraction": 0.01})
    learn(base.changed(training={"epochs": first}), folder / "even")
    uneven = folder / "uneven.safetensors"
    save_file(made_uneven(load_model(read_run(folder / "even"))[0]), uneven)
    base = base.changed(model={"weights": str(uneven)})
    learn(base.changed(training={"epochs": 0}), folder / "before")
    int8 = choose_compression(folder / "before", int8=True, training_settings={"epochs": afterwards})
    if not (folder / "int8" / "summary.json").exists():
        compress(int8, folder / "int8", resume=(folder / "int8").exists(), console=LOUD)
    longer = base.changed(
        optim={"learning_rate": int8.optim.learning_rate},
        schedule={"warmup_epochs": int8.schedule.warmup_epochs},
        training={"epochs": afterwards},
    )
    learn(longer, folder / "longer")
    return {name: read_run(folder / name) for name in ("even", "before", "longer", "int8")}


def made_uneven(network: nn.Module) -> dict[str, Tensor]:
    """Its weights, with the maps between the two layers of each block scaled channel by channel."""
    tensors = network.state_dict()
    draw = torch.Generator().manual_seed(0)
    for name in [name.removesuffix(".conv2.weight") for name in tensors if name.endswith(".conv2.weight")]:
        doublings = LARGEST_DOUBLINGS * (2 * torch.rand(len(tensors[f"{name}.bn1.weight"]), generator=draw) - 1)
        scale = 2**doublings
        tensors[f"{name}.bn1.weight"] = tensors[f"{name}.bn1.weight"] * scale
        tensors[f"{name}.bn1.bias"] = tensors[f"{name}.bn1.bias"] * scale
        tensors[f"{name}.conv2.weight"] = tensors[f"{name}.conv2.weight"] / scale[:, None, None]
    return tensors


def learn(config: RunConfig, run: Path) -> None:
    if not (run / "summary.json").exists():
        train(config, run, resume=run.exists(), console=LOUD)


def test_images(run: RunDescription, number: int) -> ImageSet:
    test = open_test_data(run.config.data, run.classes, run.preprocess, run.data["sha256"]["test"])
    return test.subset(spread(len(test), number))


def judge(run: RunDescription, test: ImageSet) -> dict[str, NDArray[np.bool_]]:
    """Which test images it gets right, bool [N], by way of computing."""
    model = load_model(run)[0].eval()
    network = ExportNetwork(model, run.preprocess)
    calibration = network.inputs_of(export_images(run).calibration)
    pixels = test.pixels_of(np.arange(len(test)))
    logits = {
        "float32": logits_of(model, test),
        "foreseen int8": logits_of(Int8Answers(model, run.preprocess, calibration), test),
    }
    for name in RUNTIMES:
        form = find_format(name)
        session = form.open(form.write(network, calibration, "int8"), "int8", Runtime())
        logits[f"{name} int8"] = session_outputs(session, network, pixels).logits
    return {way: each.argmax(axis=1) == test.targets for way, each in logits.items()}


def share(right: NDArray[np.bool_]) -> dict[str, Any]:
    correct = int(right.sum())
    return {
        "accuracy": correct / len(right),
        "interval": wilson_interval(correct, len(right)),
        "num_images": len(right),
    }


def paired(longer: NDArray[np.bool_], int8: NDArray[np.bool_]) -> dict[str, Any]:
    tested = mcnemar_exact(longer, int8)
    return {
        "difference": tested.difference,
        "interval": paired_difference_interval(longer, int8),
        "p_value": tested.p_value,
    }


if __name__ == "__main__":
    main()
