"""Where a run stands: everything that a checkpoint must bring back besides tensors and random state."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from convcraft.training.checkpoint import folder_name
from convcraft.training.schedules import Plateau


@dataclass
class Tally:
    """Loss and score since the last log line, weighted by images."""

    loss_sum: float = 0.0
    num_correct: int = 0
    num_images: int = 0

    def add(self, loss: float, num_correct: int, num_images: int) -> None:
        """Take in one batch; loss is its mean."""
        self.merge(Tally(loss * num_images, num_correct, num_images))

    def merge(self, other: Tally) -> None:
        self.loss_sum += other.loss_sum
        self.num_correct += other.num_correct
        self.num_images += other.num_images

    @property
    def loss(self) -> float:
        return self.loss_sum / self.num_images if self.num_images else math.nan

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_images if self.num_images else math.nan


@dataclass
class TrainState:
    """Position, sums and selection of a run."""

    step: int = 0  # optimiser steps done
    epoch: int = 0  # epochs done
    step_in_epoch: int = 0  # steps done of the running epoch
    recent: Tally = field(default_factory=Tally)  # since the last log line
    plateau: Plateau = field(default_factory=Plateau)
    best_accuracy: float | None = None  # on validation
    best_loss: float | None = None
    best_checkpoint: str | None = None  # its folder's name
    epochs_since_best: int = 0
    finished: bool = False
    train_seconds: float = 0.0  # wall-clock time in the loop, summed over resumes

    def is_better(self, accuracy: float, loss: float) -> bool:
        """Higher validation accuracy, or the same with lower loss."""
        if self.best_accuracy is None or self.best_loss is None:
            return True
        return (accuracy, -loss) > (self.best_accuracy, -self.best_loss)

    def record_validation(self, accuracy: float, loss: float) -> bool:
        """Take in an epoch's validation; says whether it is the best so far."""
        better = self.is_better(accuracy, loss)
        if better:
            self.best_accuracy, self.best_loss = accuracy, loss
            self.best_checkpoint = folder_name(self.step, self.epoch)
            self.epochs_since_best = 0
        else:
            self.epochs_since_best += 1
        return better

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> TrainState:
        nested = {"recent": Tally(**values["recent"]), "plateau": Plateau(**values["plateau"])}
        return cls(**{**values, **nested})
