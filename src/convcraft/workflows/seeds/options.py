"""What can be asked of `seeds run`, and how it changes a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from convcraft.config import RunConfig
from convcraft.errors import UserError

QUICK_LABELS_PER_CLASS = 100


@dataclass(frozen=True)
class RunOptions:
    """How much of a seed's repaired system is run, from what, and where to.

    quick: one seed, one epoch, 100 labelled images per class: shows that everything works, its figures mean little.
    weights: starting weights (000: ImageNet's ResNet-50, 003: ImageNet's ResNet-18, 004: a Keras file to judge).
    """

    out: Path
    seeds: int = 3
    epochs: int | None = None
    quick: bool = False
    data_dir: str | None = None
    weights: Path | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        if self.seeds < 1:
            raise UserError(f"--seeds {self.seeds}", "at least 1", "Pass another number.")
        if self.weights is not None and not self.weights.is_file():
            raise UserError(f"weights file {self.weights}, which is not there", "an existing file", "Check the path.")

    @property
    def num_runs(self) -> int:
        return 1 if self.quick else self.seeds

    def applied_to(self, config: RunConfig) -> RunConfig:
        """The recipe with what was asked."""
        epochs = self.epochs if self.epochs is not None else (1 if self.quick else None)
        labels = QUICK_LABELS_PER_CLASS if self.quick else None
        return config.changed(
            data={"data_dir": self.data_dir, "labels_per_class": labels},
            training={"epochs": epochs, "device": self.device},
        )
