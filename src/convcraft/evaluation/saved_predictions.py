"""Predictions on the disk: what every figure of an evaluation can be computed from again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.npz_files import damaged, load_npz, npz_bytes
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.probabilities import probabilities_of


@dataclass(frozen=True, eq=False)
class SavedPredictions:
    """What a network said about labelled images, before anything is made of it.

    logits: float32 [N, K]. targets: int64 [N]. names: N names for people.
    before: float32 [N, K], logits of the network that fine-tuning started from; None in other runs.
    """

    logits: NDArray[np.float32]
    targets: NDArray[np.int64]
    names: tuple[str, ...]
    before: NDArray[np.float32] | None = None

    def predictions(self, classes: tuple[str, ...], loss: str) -> Predictions:
        """As probabilities. loss: `training.loss` of the run, which says what its logits mean."""
        return Predictions(classes, probabilities_of(self.logits, loss), self.targets, self.names)

    def predictions_before(self, classes: tuple[str, ...]) -> Predictions | None:
        """Of the network before fine-tuning; its logits are made for softmax."""
        if self.before is None:
            return None
        return Predictions(classes, probabilities_of(self.before), self.targets, self.names)

    def to_bytes(self) -> bytes:
        """The content of a .npz file; the same predictions give the same bytes."""
        arrays: dict[str, NDArray[Any]] = {"logits": self.logits, "targets": self.targets}
        arrays["names"] = np.array(self.names, dtype=np.str_)
        if self.before is not None:
            arrays["before"] = self.before
        return npz_bytes(arrays)

    @classmethod
    def load(cls, path: Path) -> SavedPredictions:
        """Of a file that holds `to_bytes`.

        Raises:
            UserError: missing, damaged, or arrays that do not go together.
        """
        saved = load_npz(path)
        before = saved.get("before")
        try:
            found = cls(saved["logits"], saved["targets"], tuple(saved["names"].tolist()), before)
        except KeyError as error:
            raise damaged(path, error) from error
        shapes = {found.logits.shape[0], len(found.targets), len(found.names)}
        if len(shapes) > 1 or found.logits.ndim != 2 or (before is not None and before.shape != found.logits.shape):
            fix = "Evaluate the run again: convcraft evaluate RUN"
            raise UserError(f"{path}: arrays of unlike length", "one row per image in each", fix)
        return found
