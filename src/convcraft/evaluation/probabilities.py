"""From logits to probabilities: what a logit means depends on the loss that it was trained by."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.evaluation.predictions import softmax

# Of a network trained on squared error: spread over all classes, so that none is called impossible (log loss infinite).
SPREAD = 1e-3


def probabilities_of(logits: ArrayLike, loss: str = "cross_entropy") -> NDArray[np.float32]:
    """Probabilities float32 [N, K] of logits [N, K]; the most probable class is that of the largest logit.

    Args:
        loss: `training.loss` of the run. cross_entropy, nll: softmax. bce: each class's own probability (sigmoid),
            divided by their sum. mse: the logits themselves estimate the probabilities; the nearest distribution.
    """
    if loss == "bce":
        return _normalised_sigmoid(np.asarray(logits, dtype=np.float64))
    if loss == "mse":
        nearest = _nearest_distribution(np.asarray(logits, dtype=np.float64))
        return ((1 - SPREAD) * nearest + SPREAD / nearest.shape[1]).astype(np.float32)
    return softmax(logits)


def _normalised_sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float32]:
    """sigmoid(z_k) / sum of all, through logarithms, so that a row of very low logits does not become 0 / 0."""
    return softmax(-np.logaddexp(0.0, -logits))


def _nearest_distribution(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The closest point (Euclidean) with entries of at least 0 that sum to 1: max(z - t, 0) with one t per row.

    t is found by sorting (Duchi et al. 2008).
    """
    falling = -np.sort(-rows, axis=1)
    thresholds = (np.cumsum(falling, axis=1) - 1) / np.arange(1, rows.shape[1] + 1)
    kept = (falling > thresholds).sum(axis=1)  # entries that stay above 0; the first always does
    threshold = thresholds[np.arange(len(rows)), kept - 1]
    return np.asarray(np.maximum(rows - threshold[:, None], 0.0))
