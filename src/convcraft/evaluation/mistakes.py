"""Where predictions go wrong: the worst mistakes, and the pairs of classes that are confused most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.proper_scores import cross_entropies, labelled_targets


@dataclass(frozen=True)
class Mistake:
    """One image that was called wrong.

    index: its row in the predictions. target, label: true and predicted class.
    probability: of the predicted class; target_probability: of the true one; loss: -log of the latter.
    """

    index: int
    name: str
    target: int
    label: int
    probability: float
    target_probability: float
    loss: float


def top_losses(predictions: Predictions, n: int) -> list[Mistake]:
    """The n worst mistakes, largest cross-entropy first: images that are hard, odd or labelled wrong.

    Only wrong predictions; equal losses keep the order of the images.

    Raises:
        UserError: images without targets.
    """
    targets, labels = labelled_targets(predictions), predictions.labels
    losses = cross_entropies(predictions.probabilities, targets)
    wrong = np.flatnonzero(labels != targets)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][: max(n, 0)]
    return [
        Mistake(
            index=int(row),
            name=predictions.names[row],
            target=int(targets[row]),
            label=int(labels[row]),
            probability=float(predictions.probabilities[row, labels[row]]),
            target_probability=float(predictions.probabilities[row, targets[row]]),
            loss=float(losses[row]),
        )
        for row in worst
    ]


def most_confused(matrix: NDArray[np.int64], n: int) -> list[tuple[int, int, int]]:
    """The n most frequent kinds of mistake as (true class, predicted class, count), most frequent first.

    Args:
        matrix: int64 [K, K], row: true class, column: predicted class.
    """
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: max(n, 0)]
    pairs = [divmod(int(cell), len(matrix)) for cell in order]
    return [(target, label, int(mistakes[target, label])) for target, label in pairs if mistakes[target, label]]
