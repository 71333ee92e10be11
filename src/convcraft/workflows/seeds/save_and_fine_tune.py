"""Seed 004's second half: reload in a fresh process, freeze the convolutions, fine-tune the dense layers."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from safetensors.torch import save_file
from torch import nn

from convcraft.config import AugmentConfig, ModelConfig, PreprocessConfig, RunConfig, TrainingConfig
from convcraft.data.dataset import open_test_data
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.models.keras_cnn import KerasCNN
from convcraft.models.keras_weights import load_keras_weights
from convcraft.recipes.catalogue import load_recipe
from convcraft.training.checkpoint import CHECKPOINTS
from convcraft.training.freeze import tensor_hashes
from convcraft.training.run_folder import RunDescription, load_result, read_run
from convcraft.workflows.evaluate import predict_images
from convcraft.workflows.load_model import load_model
from convcraft.workflows.seeds.fresh_logits import logits_of
from convcraft.workflows.seeds.options import RunOptions
from convcraft.workflows.seeds.repeat import SeedRun, finish_run, name_by_content

CONVOLUTIONS, DENSE = ("conv1", "conv2", "conv3", "conv4"), ("dense1", "dense2")
NEW_DATA = "digits"  # scikit-learn's: other writers, another scanner, 8x8 pixels; here enlarged to 28x28
FINE_TUNING_EPOCHS = 20
PROBE_IMAGES = 256


def follow_up(run: Path, options: RunOptions, console: Console) -> dict[str, Any]:
    """All that the article does after training, with proof, as plain values."""
    description = read_run(run)
    new_run = finish_run(fine_tuning_config(description, options), run.with_name(f"{run.name}-fine-tuned"), console)
    fine_tuned = read_run(new_run.run)
    old_test = _test_images(description, options)
    same, digest = _reload_in_fresh_process(run, old_test)
    new_test = _test_images(fine_tuned, options)
    before, after = load_model(description)[0], load_model(fine_tuned)[0]
    kept, moved = _frozen_tensors(description, fine_tuned)
    return {
        "fresh process gives identical logits": same,
        "logits_sha256": digest,
        "frozen tensors bit-identical": f"{kept.same} of {kept.total}",
        "dense tensors changed": f"{moved.total - moved.same} of {moved.total}",
        "frozen_sha256": kept.hashes,
        "new data": f"scikit-learn's digits (8x8, enlarged to 28x28), {len(new_test)} test images",
        "MNIST before": _accuracy(before, old_test, description.classes),
        "MNIST after": _accuracy(after, old_test, description.classes),
        "new data before": _accuracy(before, new_test, description.classes),
        "new data after": _accuracy(after, new_test, description.classes),
    }


def fine_tuning_config(trained: RunDescription, options: RunOptions) -> RunConfig:
    """The dense layers alone, on the new data, from the trained weights, under the same preprocessing."""
    weights = load_result(trained)
    epochs = 3 if options.quick else FINE_TUNING_EPOCHS
    config = trained.config
    return RunConfig(
        data=config.changed(data={"source": NEW_DATA, "val_fraction": 0.1}).data,
        preprocess=_as_asked(trained.preprocess),
        augment=AugmentConfig(shift_fraction=0.08, rotation_degrees=10.0),
        model=ModelConfig(
            name=config.model.name,
            dropout=config.model.dropout,
            weights=str(trained.folder / CHECKPOINTS / weights.checkpoint / weights.file),
            freeze=CONVOLUTIONS,
        ),
        optim=config.optim,
        schedule=config.schedule,
        training=TrainingConfig(epochs=epochs, batch_size=64, seed=config.training.seed, device=config.training.device),
    )


def _as_asked(contract: Preprocess) -> PreprocessConfig:
    """A run's preprocessing as settings for another run."""
    return PreprocessConfig(
        image_size=(contract.height, contract.width),
        channels=contract.channels,
        resize=contract.resize,
        interpolation=contract.interpolation,
        crop_fraction=contract.crop_fraction,
        mean=contract.mean,
        std=contract.std,
    )


def _test_images(run: RunDescription, options: RunOptions) -> ImageSet:
    data = run.config.changed(data={"data_dir": options.data_dir}).data
    return open_test_data(data, run.classes, run.preprocess, run.data["sha256"]["test"])


def _accuracy(model: nn.Module, images: ImageSet, classes: tuple[str, ...]) -> float:
    return predict_images(model, images, classes)[1].accuracy


def _reload_in_fresh_process(run: Path, images: ImageSet) -> tuple[bool, str]:
    """Whether a new process reads the run and gives the same logits, bit for bit; and their SHA-256."""
    probes = images.preprocess.normalise(images.pixels_of(np.arange(min(PROBE_IMAGES, len(images)))))
    here = logits_of(run, probes)
    with tempfile.TemporaryDirectory() as folder:
        images_file, logits_file = Path(folder) / "images.npy", Path(folder) / "logits.npy"
        np.save(images_file, probes)
        program = ["-m", "convcraft.workflows.seeds.fresh_logits", str(run), str(images_file), str(logits_file)]
        subprocess.run([sys.executable, *program], check=True)
        there = np.load(logits_file, allow_pickle=False)
    same = here.dtype == there.dtype and here.shape == there.shape and here.tobytes() == there.tobytes()
    return same, hashlib.sha256(here.tobytes()).hexdigest()


@dataclass(frozen=True)
class Compared:
    """Tensors of two runs side by side, by their SHA-256."""

    same: int
    total: int
    hashes: dict[str, str]  # those of the first run


def _frozen_tensors(before: RunDescription, after: RunDescription) -> tuple[Compared, Compared]:
    """The convolutions' tensors, then the dense layers'."""
    old, new = load_result(before).tensors, load_result(after).tensors

    def compare(parts: tuple[str, ...]) -> Compared:
        left, right = tensor_hashes(old, parts), tensor_hashes(new, parts)
        return Compared(sum(right.get(name) == value for name, value in left.items()), len(left), left)

    return compare(CONVOLUTIONS), compare(DENSE)


def judge_keras_file(options: RunOptions, out: Path, console: Console) -> tuple[list[SeedRun], dict[str, Any]]:
    """A Keras file of the article's network, brought into ours and judged on MNIST.

    Its weights are written as a .safetensors file beside the run. Both names carry the start of the Keras file's
    SHA-256, so that another file of the same name is another run.
    """
    assert options.weights is not None
    network = KerasCNN(num_classes=10, in_channels=1, image_size=(28, 28))
    report = load_keras_weights(network, options.weights)
    name = name_by_content(options.weights)
    converted = out / f"{name}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, converted)
    recipe = load_recipe("seed-004")
    config = recipe.changed(
        preprocess={"mean": (0.0,), "std": (1.0,)},  # the article divides by 255 and does no more
        model={"weights": str(converted)},
        data={"data_dir": options.data_dir},
        training={"epochs": 0, "device": options.device},
    )
    run = finish_run(config, out / f"keras-{name}", console)
    return [run], {"weights": str(report), "converted": str(converted)}
