"""Which score tells that an image is of no class of a run: chosen on images that are known to be of one.

Energy needs nothing but the logits. Distances of the classifier's input from that of train images are tried beside it
where images are small enough (`CHEAP_PIXELS`) to send 2,000 train images and 1,000 pseudo-unknowns through the network
in seconds; the score that best tells validation images from those pseudo-unknowns is taken (`choose_score`).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.data.spread import spread
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.predict_function import pixel_batches
from convcraft.evaluation.predictions import predict_logits
from convcraft.evaluation.pseudo_unknowns import PATCHES_PER_SIDE, choose_score, pseudo_unknowns
from convcraft.evaluation.strangeness import Scorer, Strangeness, score_of
from convcraft.evaluation.unknown import fit_mahalanobis, fit_neighbours
from convcraft.workflows.network_outputs import BATCH_SIZE, as_features, classifier_inputs, outputs_of

CHEAP_PIXELS = 64 * 64  # per image; larger ones have energy alone
TRAIN_IMAGES = 2_000  # that distances are measured from
PSEUDO_IMAGES = 200  # train images that one unknown of each kind is made from
WIDEST_COVARIANCE = 512  # features: beyond, eigenvectors take seconds
HAVE_ENERGY = ("cross_entropy", "nll", "bce")  # losses whose logits have a scale


def cheap(preprocess: Preprocess) -> bool:
    """Whether distances in feature space are tried; images must also be large enough to be cut up."""
    height, width = preprocess.height, preprocess.width
    return height * width <= CHEAP_PIXELS and min(height, width) >= PATCHES_PER_SIDE


def find_strangeness(model: nn.Module, train: ImageSet, val: Outputs, loss: str) -> Strangeness | None:
    """The score for a run; None where nothing can be measured (squared error on large images).

    Args:
        train: images that the network learned from.
        val: of validation images; with features where `cheap`.
    """
    candidates: dict[str, Scorer | None] = {}
    if loss in HAVE_ENERGY:
        candidates["energy"] = None
    if val.features is not None and cheap(train.preprocess):
        bank = train.subset(spread(len(train), TRAIN_IMAGES))
        features = outputs_of(model, bank, features=True).features
        assert features is not None  # validation has them
        candidates |= distances(features, bank.targets)
    if not candidates:
        return None
    scores = {name: score_of(name, scorer, val, loss) for name, scorer in candidates.items()}
    if len(candidates) == 1:
        ((name, scorer),) = candidates.items()
        return Strangeness(name, scorer, scores[name], {})
    return chosen_by_pseudo_unknowns(model, train, candidates, scores, loss)


def chosen_by_pseudo_unknowns(
    model: nn.Module,
    train: ImageSet,
    candidates: Mapping[str, Scorer | None],
    of_validation: Mapping[str, NDArray[np.float64]],
    loss: str,
) -> Strangeness:
    """The candidate that best tells validation images from unknowns made of train images; of equals the first."""
    some = train.subset(spread(len(train), PSEUDO_IMAGES))
    made = pseudo_unknowns(some.pixels_of(np.arange(len(some))), some.targets)
    seen = {kind: _outputs_of_pixels(model, pixels, train.preprocess) for kind, pixels in made.items()}
    of_unknown = {
        name: {kind: score_of(name, scorer, outputs, loss) for kind, outputs in seen.items()}
        for name, scorer in candidates.items()
    }
    best, aurocs = choose_score(of_validation, of_unknown)
    return Strangeness(best, candidates[best], of_validation[best], aurocs)


def distances(
    features: NDArray[np.float32], targets: NDArray[np.int64], *, covariances: bool = True
) -> dict[str, Scorer]:
    """The distances that these images can define: neighbours, and where asked those that need a covariance."""
    found: dict[str, Scorer] = {}
    if covariances and features.shape[1] <= WIDEST_COVARIANCE and _scatter(features, targets):
        found["mahalanobis"] = fit_mahalanobis(features, targets)
        found["relative_mahalanobis"] = fit_mahalanobis(features, targets, relative=True)
    return {**found, "nearest_neighbours": fit_neighbours(features, largest_bank=TRAIN_IMAGES)}


def _scatter(features: NDArray[np.float32], targets: NDArray[np.int64]) -> bool:
    """Whether images of some class differ: covariances need it."""
    return any(np.ptp(features[targets == label], axis=0).any() for label in np.unique(targets))


def _outputs_of_pixels(model: nn.Module, pixels: NDArray[np.uint8], preprocess: Preprocess) -> Outputs:
    with classifier_inputs(model) as kept:
        logits = predict_logits(model, pixel_batches(pixels, preprocess, BATCH_SIZE))
    return Outputs(logits, as_features(kept))
