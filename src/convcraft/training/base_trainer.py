"""What the loop needs of a trainer, whatever computes: torch (`loop.Trainer`) or NumPy (in `workflows.scratch`)."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from torch import nn

from convcraft.config import RunConfig
from convcraft.data.augment import Augmenter
from convcraft.data.cached_maps import CachedMaps
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import Batch, Ids
from convcraft.errors import UserError
from convcraft.tasks.classification import Classification
from convcraft.training.checkpoint import CHECKPOINTS, Checkpoint, Tensors, load_newest, set_aside_newer
from convcraft.training.loss_signature import LossWatch
from convcraft.training.metrics_log import MetricsLog
from convcraft.training.profile import NoStopwatch
from convcraft.training.state import Tally, TrainState
from convcraft.training.stops import NonFinite


@dataclass(kw_only=True)
class BaseTrainer(ABC):
    """One run's parts that do not depend on what computes, and what has to be said by that which does."""

    run: Path
    config: RunConfig
    train: ImageSet | CachedMaps
    val: ImageSet | CachedMaps | None
    task: Classification
    augmenter: Augmenter
    facts: dict[str, Any]  # what a checkpoint records about its origin: classes, data hash, versions
    state: TrainState
    log: MetricsLog
    loss_watch: LossWatch | None = None  # recognises losses that stay where a known mistake keeps them
    saved_name: str | None = None  # the checkpoint that holds the present state, if there is one
    watch: NoStopwatch = field(default_factory=NoStopwatch)  # books the loop's time by part where that is asked for

    @property
    def steps_per_epoch(self) -> int:
        training = self.config.training
        return math.ceil(len(self.train) / (training.batch_size * training.accumulation_steps))

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.config.training.epochs

    @abstractmethod
    def start_epoch(self) -> None:
        """Put the network into training mode; `state.epoch` is the epoch that begins or goes on (0 is the first)."""

    @abstractmethod
    def put_learning_rate(self, learning_rate: float) -> None:
        """Tell the optimiser the rate of the coming step."""

    @abstractmethod
    def learn(self, batches: Iterator[Batch], passes: Sequence[Ids]) -> Tally:
        """One optimiser step from as many batches as there are passes; their loss and score."""

    @abstractmethod
    def validate(self, images: ImageSet | CachedMaps) -> tuple[float, float]:
        """Mean loss and accuracy with the weights that would be kept."""

    @abstractmethod
    def capture(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Everything that a checkpoint must hold of network, optimiser and random state: tensors and plain values."""

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensors], content: Mapping[str, Any]) -> None:
        """Put back what `capture` gave."""

    @abstractmethod
    def torch_network(self) -> nn.Module:
        """The torch network, on the CPU, that the run's weights belong to: to judge and draw a finished run."""

    @property
    @abstractmethod
    def placement(self) -> tuple[str, str]:
        """The kind of device and the precision that the run is computed on and in: ("cpu", "32-true")."""

    def own_facts(self) -> dict[str, Any]:
        """What the summary says of the machine beyond that."""
        return {}


def as_saved(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts as a checkpoint gives them back: lists, no tuples."""
    plain: dict[str, Any] = json.loads(json.dumps(facts))
    return plain


def common_parts(
    run: Path,
    config: RunConfig,
    train: ImageSet | CachedMaps,
    val: ImageSet | CachedMaps | None,
    task: Classification,
    facts: dict[str, Any],
    checkpoint: Checkpoint | None,
) -> dict[str, Any]:
    """The fields of `BaseTrainer` for a run that begins, or goes on from a checkpoint."""
    steps = math.ceil(len(train) / (config.training.batch_size * config.training.accumulation_steps))
    mixed = bool(config.augment.mixup_alpha or config.augment.cutmix_alpha)
    class_counts = np.bincount(train.targets, minlength=task.num_classes).tolist()
    return {
        "run": run,
        "config": config,
        "train": train,
        "val": val,
        "task": task,
        "augmenter": Augmenter(config.augment, train.preprocess, task.num_classes, config.training.seed),
        "facts": facts,
        "state": TrainState(),
        "log": MetricsLog(run, checkpoint.state["log_bytes"] if checkpoint else 0),
        "loss_watch": LossWatch(task.num_classes, class_counts, task, steps, mixed=mixed),
    }


def find_checkpoint(run: Path, facts: Mapping[str, Any], console: Console) -> Checkpoint:
    """The newest whole checkpoint of the run, made from the same data."""
    checkpoint, problems = load_newest(run / CHECKPOINTS)
    set_aside_newer(run / CHECKPOINTS, checkpoint.name)
    for problem in problems:
        console.print(f"passed over a damaged checkpoint: {problem}", style="yellow", highlight=False)
    for name, value in facts.items():
        if name != "versions" and checkpoint.state.get(name) != value:
            fix = "Bring back the data as it was, or start a new run."
            raise UserError(f"{name} differs from what this run was trained on", "the same data and classes", fix)
    return checkpoint


def go_on_from(trainer: BaseTrainer, checkpoint: Checkpoint) -> None:
    """Put the saved tensors, position and random state back."""
    content = checkpoint.state
    trainer.restore(checkpoint.tensors, content)
    trainer.state = TrainState.from_dict({name: content[name] for name in TrainState.__dataclass_fields__})
    trainer.saved_name = checkpoint.name


def report_non_finite(trainer: BaseTrainer, batch: Batch, loss: float) -> None:
    """Name the batch that blew up and stop; nothing of it reaches the weights or a checkpoint.

    Raises:
        NonFinite: always.
    """
    state = trainer.state
    report = {
        "loss": str(loss),
        "step": state.step,
        "epoch": state.epoch,
        "ids": batch.ids.tolist(),
        "images": [trainer.train.samples[index].source for index in batch.ids],
    }
    report_file = trainer.run / "non_finite.json"
    report_file.write_text(json.dumps(report, indent=1, ensure_ascii=False), encoding="utf-8")
    trainer.log.flush()
    raise NonFinite(f"the loss is {loss} at step {state.step} (epoch {state.epoch + 1}); {report_file} names the batch")
