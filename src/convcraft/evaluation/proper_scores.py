"""What each image's probabilities cost, given its class: cross-entropy and Brier score.

Both are proper: a model does best by saying what it believes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.predictions import Predictions

SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)  # below it float32 has no probabilities: a loss of 87 at most


def labelled_targets(predictions: Predictions) -> NDArray[np.int64]:
    """The targets, int64 [N].

    Raises:
        UserError: no images, or images without targets.
    """
    if predictions.targets is None:
        raise UserError("images without labels", "labelled images", "Use `predict` for images that nobody labelled.")
    if not len(predictions):
        raise UserError("no images", "at least one labelled image", "Check that the split is not empty.")
    return predictions.targets


def cross_entropies(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """-log of the probability of the true class of each image, in nats, float64 [N].

    scikit-learn's `log_loss` cuts at the precision of the dtype (1.2e-7 in float32, a loss of 15.9 at most).
    """
    of_target = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return np.asarray(-np.log(np.clip(of_target, SMALLEST_PROBABILITY, 1.0)))


def brier_scores(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Sum over the classes of (probability - 1 if true else 0)^2 of each image, 0..2, float64 [N].

    This is Brier's own form. For three classes and more it is scikit-learn's `brier_score_loss`; for two classes
    scikit-learn gives half of it (the square of one column), unless told `scale_by_half=False`.

    Source: Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review 78 (1950).
    """
    table = probabilities.astype(np.float64)
    of_target = table[np.arange(len(targets)), targets]
    others = np.einsum("nk,nk->n", table, table) - of_target**2
    return np.asarray(np.maximum(others, 0.0) + (1.0 - of_target) ** 2)
