"""Single-label classification: what its loss, its score and its answers are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Classification:
    """One of K classes per image.

    label_smoothing: share of the target spread evenly over all classes (Szegedy et al. 2016).
    class_weights: float32 [K] or None; the weight of an image's loss by its class.
    """

    num_classes: int
    label_smoothing: float = 0.0
    class_weights: Tensor | None = None

    def loss(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of a batch, from logits.

        The weighted losses are divided by the number of images, not by the sum of their weights (torch's default), so
        that accumulating several batches gives the gradient of one large batch.

        Args:
            logits: float [B, K].
            targets: int64 [B], or float32 [B, K] after mixing.

        Returns:
            float32 scalar.
        """
        weights = None if self.class_weights is None else self.class_weights.to(logits.device)
        losses = torch.nn.functional.cross_entropy(
            logits.float(), targets, weight=weights, reduction="none", label_smoothing=self.label_smoothing
        )
        return losses.mean()

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
