"""The chosen score that tells that an image is of no class of a run, and that score of new images. NumPy alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.unknown import Mahalanobis, NearestNeighbours, energy

Scorer = Mahalanobis | NearestNeighbours


@dataclass(frozen=True, eq=False)
class Strangeness:
    """A chosen score.

    name: one of `evaluation.unknown.SCORES`. scorer: None for energy.
    of_validation: float64 [N], scores of images that the network and the scorer did not learn from.
    aurocs: score -> kind of pseudo-unknown -> AUROC; empty where there was nothing to choose.
    """

    name: str
    scorer: Scorer | None
    of_validation: NDArray[np.float64]
    aurocs: Mapping[str, Mapping[str, float]]


def score_of(name: str, scorer: Scorer | None, outputs: Outputs, loss: str) -> NDArray[np.float64]:
    """Scores float64 [N]; higher is stranger.

    Raises:
        UserError: a distance without features.
    """
    if scorer is None:
        return energy(outputs.logits, loss)
    if outputs.features is None:
        raise UserError(f"no features for {name}", "the input of the classifier", "Ask for them: `outputs_of`.")
    return scorer.score(outputs.features)


def scorer_from(name: str, tensors: Mapping[str, NDArray[Any]]) -> Scorer:
    """Of what `scorer.tensors()` gave."""
    read: Callable[[Mapping[str, NDArray[Any]]], Scorer]
    read = NearestNeighbours.from_tensors if name == "nearest_neighbours" else Mahalanobis.from_tensors
    return read(tensors)
