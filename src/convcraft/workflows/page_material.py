"""What a run's page shows beside figures: heat over the mistakes, images of each cell, a map of the last features."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError, first_line
from convcraft.evaluation.metrics import Mistake
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.evaluation.reliability_diagram import ReliabilityDiagram, reliability_diagram
from convcraft.evaluation.trust import log_of
from convcraft.explain.catalogue import METHODS
from convcraft.explain.trust import check
from convcraft.report.run_content import FeaturePlaces, Heat
from convcraft.workflows.network_outputs import outputs_of

METHOD = "grad-cam"
CHECKED_IMAGES, CHECK_STEPS, CHECK_SECONDS = 16, 10, 5.0
MAP_SIZES = (2_000, 1_000, 500, 250, 120)  # images on the map of features: the most that forward passes afford
MAP_SECONDS = 8.0
TIMED_IMAGES = 8
FEWEST_FOR_TSNE = 12


def heat_of(
    model: nn.Module,
    preprocess: Preprocess,
    pixels: NDArray[np.uint8],
    mistakes: Sequence[Mistake],
    images: ImageSet,
    predictions: Predictions,
    checks: bool = True,
) -> Heat | None:
    """Grad-CAM of the wrong answers; where it cannot be drawn, a sentence that says so.

    Args:
        model: on the CPU. pixels: uint8 [n, H, W, C] of the mistakes.
        images, predictions: among which the method is checked, where that takes a few seconds only. checks: whether
            it is.
    """
    if not mistakes:
        return None
    called = torch.tensor([mistake.label for mistake in mistakes])
    started = time.monotonic()
    try:
        maps = METHODS[METHOD](model, torch.from_numpy(preprocess.normalise(pixels)), called)
    except (UserError, RuntimeError) as error:
        return Heat(METHOD, None, f"No heat maps: {METHOD} does not work on this network ({_reason(error)}).")
    # A map is a pass forwards and one backwards, about three passes; the check needs a map and two curves per image.
    pass_seconds = (time.monotonic() - started) / (3 * len(mistakes))
    cost = pass_seconds * CHECKED_IMAGES * (3 + 2 * (CHECK_STEPS + 1))
    right = np.flatnonzero(predictions.labels == predictions.targets)
    if not checks or cost > CHECK_SECONDS or len(right) < CHECKED_IMAGES:
        return Heat(METHOD, maps, "Whether these maps can be believed was not checked here (convcraft explain does).")
    rows = right[np.linspace(0, len(right) - 1, CHECKED_IMAGES).round().astype(np.int64)]
    seen = torch.from_numpy(preprocess.normalise(images.pixels_of(rows)))
    targets = torch.from_numpy(predictions.labels[rows])
    try:
        found = check(METHODS[METHOD], model, seen, targets, steps=CHECK_STEPS)
    except (UserError, RuntimeError) as error:
        return Heat(METHOD, maps, f"Whether these maps can be believed could not be checked ({_reason(error)}).")
    return Heat(METHOD, maps, found.sentence, found.verdict != "broken")


def _reason(error: UserError | RuntimeError) -> str:
    return error.received if isinstance(error, UserError) else first_line(error)


def reliability_of(predictions: Predictions, temperature: float | None) -> dict[str, ReliabilityDiagram]:
    """Diagrams of the network's own confidence and, where a temperature was fitted, of the calibrated one."""
    assert predictions.targets is not None
    correct = predictions.labels == predictions.targets
    found = {"As the network says": reliability_diagram(predictions.confidence, correct)}
    if temperature is not None:
        calibrated = softmax(log_of(predictions.probabilities) / temperature).max(axis=1)
        found[f"Calibrated (temperature {temperature:.2f})"] = reliability_diagram(calibrated, correct)
    return found


def places_of(
    model: nn.Module,
    images: ImageSet,
    predictions: Predictions,
    seed: int,
    most: int = MAP_SIZES[0],
    known: NDArray[np.float32] | None = None,
) -> FeaturePlaces | None:
    """The last features of some images in two dimensions; None where the classifier is given no rows.

    Args:
        model: on the CPU.
        seed: of the images that are drawn where there are too many, and of t-SNE.
        most: so many images at most; fewer where forward passes of them would take long.
        known: float32 [N, D], the features of all images where they were computed before.

    Source: van der Maaten and Hinton, "Visualizing data using t-SNE", 2008; started from PCA as in scikit-learn.
    """
    assert predictions.targets is not None
    rows = np.arange(len(images))
    drawn = ""
    if known is None and len(rows) > MAP_SIZES[-1]:
        affordable = _affordable(model, images)
        most = next((size for size in MAP_SIZES if size <= min(most, affordable)), MAP_SIZES[-1])
    if len(rows) > most:
        rows = np.sort(np.random.default_rng(seed).choice(len(rows), most, replace=False))
        drawn = f" Drawn at random from {len(images):,}."
    features = known[rows] if known is not None else outputs_of(model, images.subset(rows), features=True).features
    if features is None or len(rows) < 3 or features.shape[1] < 2 or not np.isfinite(features).all():
        return None
    plane, share = principal_plane(features)
    planes = {f"PCA: {100 * share:.0f} % of the variance": plane}
    note = "PCA keeps large distances."
    if len(rows) >= FEWEST_FOR_TSNE:
        planes["t-SNE"] = _neighbourhoods(features, seed)
        note += " t-SNE keeps who is near whom; its distances and sizes of clusters mean nothing."
    names = [predictions.names[row] for row in rows]
    return FeaturePlaces(planes, predictions.targets[rows], predictions.labels[rows], names, note + drawn)


def _affordable(model: nn.Module, images: ImageSet) -> float:
    """How many images can be sent through the network in MAP_SECONDS, by a few of them."""
    few = images.subset(np.arange(TIMED_IMAGES))
    outputs_of(model, few)  # the first pass prepares memory
    started = time.monotonic()
    outputs_of(model, few)
    return MAP_SECONDS * TIMED_IMAGES / max(time.monotonic() - started, 1e-9)


def principal_plane(features: NDArray[np.float32]) -> tuple[NDArray[np.float64], float]:
    """The two directions of most variance, float64 [n, 2], and their share of the variance.

    The largest entry of either direction is positive, so that the same features give the same picture.
    """
    centred = features.astype(np.float64) - features.mean(axis=0, dtype=np.float64)
    _, spread, directions = np.linalg.svd(centred, full_matrices=False)
    largest = np.abs(directions[:2]).argmax(axis=1)
    signs = np.sign(directions[[0, 1], largest])
    share = float((spread[:2] ** 2).sum() / max((spread**2).sum(), np.finfo(np.float64).tiny))
    return centred @ (directions[:2] * signs[:, None]).T, share


def _neighbourhoods(features: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    from sklearn.manifold import TSNE  # only for pages

    perplexity = min(30.0, (len(features) - 1) / 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of columns that are constant
        method = TSNE(init="pca", perplexity=perplexity, random_state=seed, max_iter=500, n_jobs=1)
        return np.asarray(method.fit_transform(features.astype(np.float64)), np.float64)
