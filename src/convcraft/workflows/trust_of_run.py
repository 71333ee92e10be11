"""Fitting the trust of a run, from images that its network did not learn from."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.sample import Progress
from convcraft.data.spread import spread
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.strangeness import Scorer, Strangeness
from convcraft.evaluation.trust import CROSS_FITTED, Trust, fit_trust, load_trust, log_of, save_trust
from convcraft.finetune.pool import Pool
from convcraft.training.run_folder import ResultWeights, RunDescription
from convcraft.workflows.evaluate_held_out import open_held_out
from convcraft.workflows.network_outputs import outputs_of
from convcraft.workflows.strangeness import (
    cheap,
    chosen_by_pseudo_unknowns,
    distances,
    find_strangeness,
)

STRANGE_IMAGES = 500  # set a threshold to about one per cent of the known images
SAME_FEATURES_IMAGES = 8
SAME_FEATURES_TOLERANCE = 1e-3  # of the largest feature


def trust_from_validation(
    run: RunDescription, model: nn.Module, weights_sha256: str, train: ImageSet, val: ImageSet, outputs: Outputs
) -> Trust:
    """Fit and save the trust of a network that learned from `train`, not from `val`.

    outputs: of `val`; with features where `cheap`.
    """
    loss = run.config.training.loss
    trust = fit_trust(
        outputs.logits,
        val.targets,
        loss=loss,
        weights_sha256=weights_sha256,
        preprocess_sha256=run.preprocess.hash(),
        strangeness=find_strangeness(model, train, outputs, loss),
    )
    save_trust(run.folder, trust)
    return trust


def trust_from_pool(
    run: RunDescription,
    model: nn.Module,
    weights_sha256: str,
    pool: Pool,
    probabilities: NDArray[np.float32],
    pretrained_features: NDArray[np.float32],
    device: str = "cpu",
) -> Trust | None:
    """Fit and save the trust of a fine-tuned network; None where no labelled image could be held back.

    Candidates say probabilities, whose logarithms serve as logits; they have no energy. For that a large pool's
    validation images are sent through the network once more (`STRANGE_IMAGES` of them where they are not `cheap`). Of a
    cross-fitted pool the final network has learned from all images, so that its energies are no measure. A distance is
    one where the classifier's input is still what the pretrained network gives (probes): it owes nothing to the labels,
    and each image's distance is taken from images of other rounds.

    Args:
        probabilities: float32 [N, K] of the pool's images, held out. pretrained_features: float32 [N, D] of the same.
    """
    if not len(pool.chooses):
        return None
    strangeness = None
    if not pool.cross_fitted:
        strangeness = _as_in_training(model, pool, run.config.training.loss, device)
    elif _same_features(model, pool.images, pretrained_features):
        strangeness = _held_out_distance(model, pool, pretrained_features)
    trust = fit_trust(
        log_of(probabilities[pool.chooses]),
        pool.images.targets[pool.chooses],
        loss=run.config.training.loss,
        weights_sha256=weights_sha256,
        preprocess_sha256=run.preprocess.hash(),
        strangeness=strangeness,
        source=CROSS_FITTED if pool.cross_fitted else "validation",
    )
    save_trust(run.folder, trust)
    return trust


def find_trust(
    run: RunDescription, model: nn.Module, weights: ResultWeights, progress: Progress | None = None
) -> Trust | None:
    """A run's trust, fitted now where it is missing and the run's own data can be opened; None where they cannot, or
    where the network learned from all images. Opens data: not for `predict`.

    Raises:
        UserError: a trust.json that is damaged or belongs to other weights.
    """
    saved = load_trust(run.folder, weights.sha256, run.preprocess.hash())
    if saved is not None:
        return saved
    opened = open_held_out(run, progress)
    if opened is None:
        return None
    train, val = opened
    outputs = outputs_of(model, val, features=cheap(run.preprocess))
    return trust_from_validation(run, model, weights.sha256, train, val, outputs)


def _as_in_training(model: nn.Module, pool: Pool, loss: str, device: str) -> Strangeness | None:
    """Of a network that has not learned from the validation images."""
    small = cheap(pool.images.preprocess)
    ids = pool.chooses if small else pool.chooses[spread(len(pool.chooses), STRANGE_IMAGES)]
    outputs = outputs_of(model, pool.images.subset(ids), features=small, device=device)
    return find_strangeness(model, pool.images.subset(pool.rounds[0].fit), outputs, loss)


def _same_features(model: nn.Module, images: ImageSet, pretrained: NDArray[np.float32]) -> bool:
    """Whether the classifier of the network gets what the pretrained one gave, judged by a few images."""
    some = spread(len(images), SAME_FEATURES_IMAGES)
    now, before = outputs_of(model, images.subset(some), features=True).features, pretrained[some]
    if now is None or now.shape != before.shape:
        return False
    return float(np.abs(now - before).max()) <= SAME_FEATURES_TOLERANCE * float(np.abs(before).max())


def _held_out_distance(model: nn.Module, pool: Pool, features: NDArray[np.float32]) -> Strangeness:
    """Neighbours; where images are `cheap`, the best of all distances. Each image is scored from other rounds."""
    targets, folds = pool.images.targets, pool.fold_of
    choose = cheap(pool.images.preprocess)
    everything: dict[str, Scorer | None] = dict(distances(features, targets, covariances=choose))
    scores = {name: np.empty(len(targets)) for name in everything}
    for fold in np.unique(folds[folds >= 0]):
        held = folds == fold
        of_others = distances(features[~held], targets[~held], covariances=choose)
        # A covariance that the others alone cannot give is no candidate.
        scores = {name: scores[name] for name in scores if name in of_others}
        for name in scores:
            scores[name][held] = of_others[name].score(features[held])
    held_out = {name: values[pool.chooses] for name, values in scores.items()}
    if len(held_out) == 1:
        ((name, values),) = held_out.items()
        return Strangeness(name, everything[name], values, {})
    candidates = {name: everything[name] for name in held_out}
    return chosen_by_pseudo_unknowns(model, pool.images, candidates, held_out, "cross_entropy")
