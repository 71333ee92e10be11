"""The losses of `tasks.classification` and their derivatives, in NumPy: same names, same numbers."""

from __future__ import annotations

import numpy as np

from convcraft.scratch.checks import Array
from convcraft.scratch.losses import (
    binary_cross_entropy_with_logits,
    binary_cross_entropy_with_logits_backward,
    cross_entropy,
    cross_entropy_backward,
    mse_loss,
    mse_loss_backward,
    one_hot,
)
from convcraft.tasks.classification import Classification


class NumpyLoss:
    """Mean loss over the images of a batch, from logits; `backward` gives its derivative.

    cross_entropy, and nll, which is the same written differently; bce and mse are means over the classes. Weighted
    losses are divided by the number of images, as in `Classification`.
    """

    def __init__(self, task: Classification) -> None:
        self.name, self.num_classes, self.smoothing = task.loss_name, task.num_classes, task.label_smoothing
        self.weights = None if task.class_weights is None else task.class_weights.numpy()

    def __call__(self, logits: Array, targets: Array) -> float:
        """logits: float32 [B, K]; targets: int64 [B], or float32 [B, K] after mixing."""
        self.logits, self.targets = logits, targets
        if self.name in ("cross_entropy", "nll"):
            total = cross_entropy(logits, targets, self.weights, reduction="sum", label_smoothing=self.smoothing)
            return float(total) / len(logits)
        rows, weight = self._rows()
        if self.name == "bce":
            return float(binary_cross_entropy_with_logits(logits, rows, weight, reduction="sum")) / logits.size
        return float((mse_loss(logits, rows, reduction="none") * weight).sum()) / logits.size

    def backward(self) -> Array:
        """dL/d(logits) of the last call, float32 [B, K]."""
        logits, targets = self.logits, self.targets
        if self.name in ("cross_entropy", "nll"):
            sums = cross_entropy_backward(
                logits, targets, self.weights, reduction="sum", label_smoothing=self.smoothing
            )
            return sums / logits.dtype.type(len(logits))
        rows, weight = self._rows()
        if self.name == "bce":
            sums = binary_cross_entropy_with_logits_backward(logits, rows, weight, reduction="sum")
        else:
            sums = mse_loss_backward(logits, rows, reduction="sum") * weight
        return sums / logits.dtype.type(logits.size)

    def _rows(self) -> tuple[Array, Array]:
        """Smoothed targets [B, K], and what each image counts, [B, 1]."""
        dtype = self.logits.dtype.type
        rows = self.targets
        if rows.ndim == 1:
            rows = one_hot(rows, self.num_classes, dtype)
        smooth = rows * dtype(1 - self.smoothing) + dtype(self.smoothing / self.num_classes)
        weight = np.ones((len(rows), 1), dtype) if self.weights is None else (rows @ self.weights)[:, None]
        return smooth, weight


def num_correct(logits: Array, targets: Array) -> int:
    """How many answers are right (for mixed targets: name the larger part)."""
    labels = targets if targets.ndim == 1 else targets.argmax(axis=1)
    return int((logits.argmax(axis=1) == labels).sum())
