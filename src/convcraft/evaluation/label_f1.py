"""F1 of many labels from three counts each, and how far every image moves the mean over the labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.ranking import Influence

Counts = NDArray[np.int64]
Floats = NDArray[np.float64]
Table = NDArray[np.bool_]


def hit_share(hits: Any, of: Any) -> Floats:
    """hits / of, of numbers or arrays; 0 where there is nothing."""
    return np.asarray(hits / np.maximum(of, 1))


def f1_scores(hits: Any, support: Any, predicted: Any) -> Floats:
    """2 hits / (support + predicted), of numbers or arrays; 0 where both are 0."""
    return hit_share(2 * hits, support + predicted)


def macro_f1_influence(hits: Table, truth: Table, called: Table) -> Influence:
    """Mean F1 over K labels. An image moves a label's F1 by (2 hit - F1 (carried + called)) / (support + predicted).

    Args:
        hits, truth, called: bool [N, K]; hits is both of the others.
    """
    support, predicted = _per_label(truth), _per_label(called)
    scores = f1_scores(_per_label(hits), support, predicted)
    scale = 1 / len(scores) / np.maximum(support + predicted, 1)
    return Influence(float(scores.mean()), _moved(hits, truth, called, scores, scale))


def weighted_f1_influence(hits: Table, truth: Table, called: Table) -> Influence:
    """Mean F1 weighted by support, 0 without any; the weights move with the images as well. Arguments as above."""
    support, predicted = _per_label(truth), _per_label(called)
    scores, total = f1_scores(_per_label(hits), support, predicted), max(int(support.sum()), 1)
    figure = float(support @ scores) / total
    moved = _moved(hits, truth, called, scores, support / total / np.maximum(support + predicted, 1))
    return Influence(figure, moved + _row_sums(truth, (scores - figure) / total))


def _per_label(cells: Table) -> Counts:
    return cells.sum(axis=0, dtype=np.int64)


def _moved(hits: Table, truth: Table, called: Table, scores: Floats, scale: Floats) -> Floats:
    return _row_sums(hits, 2 * scale) - _row_sums(truth, scores * scale) - _row_sums(called, scores * scale)


def _row_sums(cells: Table, weights: Floats) -> Floats:
    return np.einsum("nk,k->n", cells, weights)
