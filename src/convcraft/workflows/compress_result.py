"""A network before and after it was made smaller: what it costs, how right it is, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convcraft.data.durable_files import write_durably
from convcraft.data.image_set import ImageSet
from convcraft.data.spread import spread
from convcraft.deploy.compress.channels import Cost
from convcraft.deploy.compress.gate import VariantJudged, judge_variant
from convcraft.deploy.compress.int8_answers import Int8Answers
from convcraft.deploy.compress.sparse_storage import pack
from convcraft.deploy.compress.timing import milliseconds_per_image
from convcraft.deploy.compress.weights_pruning import prunable_weights, sparsity_of
from convcraft.deploy.machine import processor_name
from convcraft.evaluation.metrics import Report
from convcraft.statistics import wilson_interval
from convcraft.training.checkpoint import CHECKPOINTS
from convcraft.training.run_folder import RunDescription, load_result
from convcraft.workflows.before import BEFORE
from convcraft.workflows.export_images import CALIBRATION_IMAGES
from convcraft.workflows.network_outputs import logits_of

COMPRESSION = "compression.json"
SPARSE_FILE = "sparse.safetensors"
BATCH_SIZES = (1, 16)


@dataclass(frozen=True)
class Side:
    """One network.

    accuracy, interval: on validation images (95 %, Wilson); None where there are none.
    int8_accuracy, int8_interval: the same, answered in int8 as `Int8Answers` computes it; None where not asked for.
    zeros: share of the weights of convolutions and linear layers.
    file_bytes: of its weights as they are stored; packed_bytes: in the sparse format.
    milliseconds: for one image, by batch size, on the CPU in float32.
    """

    accuracy: float | None
    interval: tuple[float, float] | None
    int8_accuracy: float | None
    int8_interval: tuple[float, float] | None
    multiply_adds: int
    parameters: int
    zeros: float
    file_bytes: int
    packed_bytes: int
    milliseconds: dict[int, float]


@dataclass(frozen=True)
class Compared:
    """gate: both held against each other on validation images, class by class; None without such images.

    timed_on: the machine.
    """

    before: Side
    after: Side
    gate: VariantJudged | None
    timed_on: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class CompressResult:
    """report: of validation images, on which nothing was selected; None where there are none."""

    run: Path
    compared: Compared
    report: Report | None
    summary: dict[str, Any]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for scripts; accuracy is that of validation."""
        figures = {"accuracy": None, "interval": None, "per_class": None}
        return {
            **(figures if self.report is None else self.report.to_dict()),
            "run": str(self.run),
            "seconds": self.seconds,
            "train_seconds": self.summary["train_seconds"],
            "weights_sha256": self.summary["weights_sha256"],
            "compared": self.compared.to_dict(),
        }


def compare_sides(
    run: RunDescription,
    before: nn.Module,
    after: nn.Module,
    train: ImageSet,
    val: ImageSet | None,
    groups: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Compared:
    """Judge, time and weigh both networks; the packed result is kept as `SPARSE_FILE` where it is sparse.

    Args:
        before, after: on the CPU, in evaluation mode. train: int8 is calibrated on some of them, as exports are.
        groups: of `val`, judged beside the classes: name -> bool [N].
    """
    preprocess = run.preprocess
    shape = (preprocess.channels, preprocess.height, preprocess.width)
    milliseconds = milliseconds_per_image({"before": before, "after": after}, shape, BATCH_SIZES)
    checkpoints = run.folder / CHECKPOINTS
    result = load_result(run)
    files = {
        "before": checkpoints / BEFORE / "model.safetensors",
        "after": checkpoints / result.checkpoint / result.file,
    }
    labels = {}
    sides = {}
    for name, network in (("before", before), ("after", after)):
        packed = pack(network.state_dict())
        if name == "after" and run.config.compress.sparsity is not None:
            write_durably(run.folder / SPARSE_FILE, packed)
        accuracy, interval, int8_accuracy, int8_interval = None, None, None, None
        if val is not None:
            labels[name] = _labels(network, run, val)
            accuracy, interval = _right(labels[name], val)
            if run.config.compress.int8:
                int8_accuracy, int8_interval = _right(_labels(_in_int8(network, run, train), run, val), val)
        cost = Cost.of(network, shape)
        sides[name] = Side(
            accuracy=accuracy,
            interval=interval,
            int8_accuracy=int8_accuracy,
            int8_interval=int8_interval,
            multiply_adds=cost.multiply_adds,
            parameters=cost.parameters,
            zeros=sparsity_of(prunable_weights(network)),
            file_bytes=files[name].stat().st_size,
            packed_bytes=len(packed),
            milliseconds=milliseconds[name],
        )
    gate = None
    if val is not None:
        gate = judge_variant(labels["before"], labels["after"], val.targets, groups, classes=run.classes)
    return Compared(
        before=sides["before"],
        after=sides["after"],
        gate=gate,
        timed_on=f"{processor_name()}, {torch.get_num_threads()} threads",
    )


def _labels(network: nn.Module, run: RunDescription, images: ImageSet) -> NDArray[np.int64]:
    return logits_of(network, images, num_workers=run.config.data.num_workers).argmax(axis=1)


def _right(labels: NDArray[np.int64], images: ImageSet) -> tuple[float, tuple[float, float]]:
    """The share of right answers, with its interval."""
    correct = int((labels == images.targets).sum())
    return correct / len(images), wilson_interval(correct, len(images))


def _in_int8(network: nn.Module, run: RunDescription, train: ImageSet) -> Int8Answers:
    pixels = train.pixels_of(spread(len(train), CALIBRATION_IMAGES))
    return Int8Answers(network, run.preprocess, run.preprocess.normalise(pixels))
