"""Single-label classification: what its loss, its score and its answers are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcraft.tasks.losses import LOSS_FUNCTIONS, as_distribution


@dataclass(frozen=True)
class Classification:
    """One of K classes per image.

    label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
    class_weights: float32 [K] or None; the weight of an image's loss by its class.
    loss_name: cross_entropy, or one of `convcraft.tasks.losses.LOSS_FUNCTIONS`.
    """

    num_classes: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None
    loss_name: str = "cross_entropy"

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean loss of a batch, from logits.

        The weighted losses are divided by the number of images, not by the sum of their weights (torch's default), so
        that accumulating several batches gives the gradient of one large batch.

        Args:
            logits: float [B, K]; never probabilities (`models.output_check` refuses networks that give them).
            targets: int64 [B], or float32 [B, K] after mixing.

        Returns:
            float32 scalar.
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        if self.loss_name == "cross_entropy":  # torch's own: one kernel, and labels need not become rows
            losses = torch.nn.functional.cross_entropy(
                logits.float(), targets, weight=weights, reduction="none", label_smoothing=self.label_smoothing
            )
            return losses.mean()
        rows = as_distribution(targets, self.num_classes)
        smooth = rows * (1 - self.label_smoothing) + self.label_smoothing / self.num_classes
        if self.loss_name == "nll" and weights is not None:  # torch weighs each class's part of the sum
            return LOSS_FUNCTIONS["nll"](logits.float(), smooth * weights).mean()
        losses = LOSS_FUNCTIONS[self.loss_name](logits.float(), smooth)
        return losses.mean() if weights is None else (losses * (rows @ weights)).mean()

    def num_correct(self, logits: Tensor, targets: Tensor) -> Tensor:
        """How many answers are right (for mixed targets: name the larger part), int64 scalar."""
        labels = targets if targets.ndim == 1 else targets.argmax(dim=1)
        return (logits.argmax(dim=1) == labels).sum()


def balanced_weights(targets: NDArray[np.int64], num_classes: int) -> Tensor:
    """Inverse class frequency, scaled to mean 1 over the images: float32 [K]; a class without images gets 0."""
    counts = np.bincount(targets, minlength=num_classes)
    present = counts > 0
    weights = np.zeros(num_classes)
    weights[present] = len(targets) / (present.sum() * counts[present])
    return torch.tensor(weights, dtype=torch.float32)
