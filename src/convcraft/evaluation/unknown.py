"""Is an image of none of the classes? Scores of strangeness: higher is stranger, and a threshold on known images.

A softmax shares 100 % among the classes it has, whatever it is shown. These scores ask instead how large the logits are
(energy) and how far the features, the input of the classifier, lie from those of the train images (Mahalanobis, nearest
neighbours). None finds everything: what looks like a class to the network is taken for one. NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.conformal import finite_sample_quantile, saved_threshold

SCORES = ("energy", "mahalanobis", "relative_mahalanobis", "nearest_neighbours")
FALSE_REJECT = 0.05  # share of known images that are called unknown
LARGEST_BANK = 5000  # train images that neighbours are looked for among
NEIGHBOUR = 10  # Sun et al.: 10 of 12,800, 50 of 50,000; small ones do alike
LEAST_EIGENVALUE = 1e-6  # of the mean one: no direction counts a million times more than another
ROWS_AT_ONCE = 1024

Scores = NDArray[np.float64]
Features = NDArray[np.float32]


def energy(logits: ArrayLike, loss: str = "cross_entropy") -> Scores:
    """-log sum exp of the logits: float64 [N]. Needs nothing but the logits.

    Args:
        logits: float32 [N, K].
        loss: that the run was trained by. cross_entropy, nll: as in the paper, with its temperature of 1. bce: each
            class has an energy of its own; their sum. mse: refused: its logits are near 0 and 1 and have no scale.

    Raises:
        UserError: another loss, or logits that are not finite.

    Source: Liu et al., "Energy-based out-of-distribution detection", 2020, arXiv:2010.03759, eq. 4; bce: Wang et al.
    2021, arXiv:2109.14162, eq. 5.
    """
    rows = _checked(logits, "logits").astype(np.float64)
    if loss == "bce":
        return np.asarray(-np.logaddexp(0.0, rows).sum(axis=1))
    if loss not in ("cross_entropy", "nll"):
        raise UserError(f"energy with loss {loss!r}", "cross_entropy, nll or bce", "Choose a score from features.")
    top = rows.max(axis=1)
    return np.asarray(-top - np.log(np.exp(rows - top[:, None]).sum(axis=1)))


@dataclass(frozen=True, eq=False)
class Mahalanobis:
    """Squared distance to the nearest class mean, in units of how the images of one class scatter.

    means: float32 [C, D], of the classes that had images. whitening: float32 [D, D]: distances after `@ whitening` are
        Mahalanobis distances. background: mean [D] and whitening [D, D] of all images as one cloud, whose squared
        distance is subtracted (relative Mahalanobis); None without.
    shrinkage: how much of the shared covariance is a multiple of the identity, 0..1 (Ledoit and Wolf).
    """

    means: Features
    whitening: Features
    background: tuple[Features, Features] | None
    shrinkage: float

    def score(self, features: ArrayLike) -> Scores:
        """float64 [N] of features [N, D]; higher is stranger.

        Raises:
            UserError: another D, or features that are not finite.
        """
        rows = _checked(features, "features", self.means.shape[1])
        found = _nearest_squared(rows, self.means, self.whitening)
        if self.background is not None:
            mean, whitening = self.background
            found -= _nearest_squared(rows, mean[None], whitening)
        return found

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """For safetensors."""
        saved = {"means": self.means, "whitening": self.whitening, "shrinkage": np.array([self.shrinkage], np.float32)}
        if self.background is not None:
            saved |= {"background_mean": self.background[0], "background_whitening": self.background[1]}
        return saved

    @classmethod
    def from_tensors(cls, saved: Mapping[str, NDArray[np.float32]]) -> Mahalanobis:
        """Of what `tensors` gave."""
        background = None
        if "background_mean" in saved:
            background = (saved["background_mean"], saved["background_whitening"])
        return cls(saved["means"], saved["whitening"], background, float(saved["shrinkage"][0]))


def fit_mahalanobis(features: ArrayLike, targets: ArrayLike, *, relative: bool = False) -> Mahalanobis:
    """Class means and their shared covariance, from train images (not those that will set the threshold: an image lies
    nearer to a mean that it took part in).

    Args:
        features: float32 [N, D].
        targets: int64 [N].
        relative: subtract the distance to the cloud of all images: what lies far in directions in which all images
            scatter is not strange. Better for unknowns that look much like the known, worse for what resembles nothing:
            that is far from the cloud too.

    Raises:
        UserError: no two images of a class, features that never vary, or arrays that do not fit.

    Source: Lee et al. 2018, arXiv:1807.03888, eq. 1-2; relative: Ren et al. 2021, arXiv:2106.09022, section 3;
    shrinkage: Ledoit and Wolf, Journal of Multivariate Analysis 88 (2004). Deviation: last features alone, and no input
    perturbation, which would need gradients.
    """
    rows, labels = _checked(features, "features").astype(np.float64), np.asarray(targets)
    if labels.shape != (len(rows),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"targets {labels.dtype} {list(labels.shape)}", f"int64 [{len(rows)}]", "Give one per image.")
    present, place = np.unique(labels, return_inverse=True)
    means = np.stack([rows[place == index].mean(axis=0) for index in range(len(present))])
    whitening, shrinkage = _whitening(rows - means[place])
    background = None
    if relative:
        centre = rows.mean(axis=0)
        background = (centre.astype(np.float32), _whitening(rows - centre)[0].astype(np.float32))
    return Mahalanobis(means.astype(np.float32), whitening.astype(np.float32), background, shrinkage)


def _whitening(centred: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """W [D, D] with W W' = inverse of the shrunk covariance, and the shrinkage."""
    covariance = centred.T @ centred / max(len(centred), 1)
    scale = float(np.trace(covariance)) / len(covariance)
    if not scale > 0:
        expected = "features that vary within a class"
        raise UserError("features without any scatter", expected, "Give at least two different images of some class.")
    shrinkage = ledoit_wolf(centred, covariance)
    covariance = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(len(covariance))
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, LEAST_EIGENVALUE * scale)), shrinkage


def ledoit_wolf(centred: NDArray[np.float64], covariance: NDArray[np.float64]) -> float:
    """The share of a multiple of the identity that brings the covariance of few rows nearest to the true one: 0..1.

    Args:
        centred: [N, D], means taken off. covariance: [D, D], centred' centred / N.
    """
    norm = float((covariance**2).sum())
    spread = norm - float(np.trace(covariance)) ** 2 / len(covariance)  # |S - scale I|^2
    noise = (float(((centred**2).sum(axis=1) ** 2).mean()) - norm) / len(centred)
    return min(max(noise, 0.0), spread) / spread if spread > 0 else 1.0


def _nearest_squared(rows: Features, means: Features, whitening: Features) -> Scores:
    """Squared distance to the nearest mean after whitening, in float64: it is a difference of large squares."""
    centre = means.mean(axis=0, dtype=np.float64)  # near the rows, so that the squares stay small
    points = (rows - centre) @ whitening.astype(np.float64)
    targets = (means - centre) @ whitening.astype(np.float64)
    squares = (points**2).sum(axis=1)[:, None] + (targets**2).sum(axis=1) - 2 * points @ targets.T
    return np.asarray(np.maximum(squares, 0.0).min(axis=1))


@dataclass(frozen=True, eq=False)
class NearestNeighbours:
    """Distance to the k-th nearest train image, both brought to length 1: float64 [N], 0..2.

    bank: float32 [M, D], of length 1.
    """

    bank: Features
    neighbour: int

    def score(self, features: ArrayLike) -> Scores:
        """float64 [N] of features [N, D]; higher is stranger.

        Raises:
            UserError: another D, or features that are not finite.
        """
        rows = _unit(_checked(features, "features", self.bank.shape[1]))
        found = np.empty(len(rows))
        for start in range(0, len(rows), ROWS_AT_ONCE):
            cosines = rows[start : start + ROWS_AT_ONCE] @ self.bank.T
            rank = cosines.shape[1] - self.neighbour
            nearest = np.partition(cosines, rank, axis=1)[:, rank].astype(np.float64)
            found[start : start + ROWS_AT_ONCE] = np.sqrt(np.maximum(2 - 2 * nearest, 0.0))
        return found

    def tensors(self) -> dict[str, NDArray[Any]]:
        """For safetensors."""
        return {"bank": self.bank, "neighbour": np.array([self.neighbour], np.int64)}

    @classmethod
    def from_tensors(cls, saved: Mapping[str, NDArray[Any]]) -> NearestNeighbours:
        """Of what `tensors` gave."""
        return cls(saved["bank"], int(saved["neighbour"][0]))


def fit_neighbours(
    features: ArrayLike, neighbour: int = NEIGHBOUR, largest_bank: int = LARGEST_BANK, seed: int = 0
) -> NearestNeighbours:
    """A bank of train images; beyond `largest_bank` a seeded sample of them. Of fewer than `neighbour` the last counts.

    Raises:
        UserError: no features, features that are not finite, or a neighbour below 1.

    Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors", 2022, arXiv:2204.06507.
    """
    rows = _checked(features, "features")
    if not len(rows) or neighbour < 1 or largest_bank < 1:
        received = f"{len(rows)} features, neighbour {neighbour}, bank {largest_bank}"
        raise UserError(received, "at least one of each", "Give features of train images.")
    if len(rows) > largest_bank:
        rows = rows[np.sort(np.random.default_rng(seed).choice(len(rows), largest_bank, replace=False))]
    return NearestNeighbours(_unit(rows), min(neighbour, len(rows)))


def _unit(rows: Features) -> Features:
    """Rows of length 1; a row of zeros stays one, sqrt(2) from all others."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))


def _checked(values: ArrayLike, what: str, width: int | None = None) -> NDArray[np.float32]:
    rows = np.asarray(values, dtype=np.float32)
    if rows.ndim != 2 or not rows.shape[1] or width not in (None, rows.shape[1]):
        raise UserError(f"{what} {list(rows.shape)}", f"[N, {width or 'D'}]", "Give those of the fitted network.")
    if not np.isfinite(rows).all():
        raise UserError(f"{what} with NaN or infinity", "finite numbers", "Check the image and the weights.")
    return rows


@dataclass(frozen=True)
class UnknownThreshold:
    """Above which score an image is called unknown.

    score: which of `SCORES` (or a score of one's own). value: infinite where too few images could set it: nothing is
    called unknown then. false_reject: share of known images that are above it, at most, 0..1. num_images: that set it.
    """

    score: str
    value: float
    false_reject: float
    num_images: int

    def unknown(self, scores: ArrayLike) -> NDArray[np.bool_]:
        """bool [N] of scores [N]."""
        return np.asarray(np.asarray(scores, dtype=np.float64) > self.value)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite threshold is None."""
        return {**asdict(self), "value": None if math.isinf(self.value) else self.value}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> UnknownThreshold:
        """Of what `to_dict` gave.

        Raises:
            UserError: entries that are missing or unknown.
        """
        try:
            return cls(**{**saved, "value": saved_threshold(saved["value"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"threshold entries {sorted(saved)}", "those of to_dict()", "Fit it again.") from error


def fit_threshold(scores: ArrayLike, score: str, false_reject: float = FALSE_REJECT) -> UnknownThreshold:
    """The threshold from scores [N] of validation images: all of known classes, none trained on.

    Raises:
        UserError: scores that are not finite numbers [N], or a share outside 0..1.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise UserError(f"scores {list(values.shape)}", "finite numbers [N]", "Give scores of validation images.")
    return UnknownThreshold(score, finite_sample_quantile(values, 1 - false_reject), false_reject, len(values))
