"""Conformal prediction: for each image a set of classes that holds the true one as often as was asked for.

The promise needs no belief in the probabilities, only that validation images and later ones are drawn alike
(exchangeable), and that nothing was fitted to the validation images that set the threshold. Two things break it. Where
the images come from elsewhere (another camera, season, hospital) it is void. And the same validation images often pick
the checkpoint and the temperature first: a temperature is one number, so that with hundreds of images the harm is far
below the noise, but the promise is then no longer exact. `halves` keeps them apart where there are enough images.

It is a promise on average, over images and over draws of validation images: not for each class (there is
`class_conditional` for that) and not for each image. NumPy alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError

METHODS = ("lac", "aps", "raps")
ENOUGH_TO_HALVE = 200  # then 100 set the threshold: a 90 % set covers 84 to 95 % (see `coverage_band`)

Rows = NDArray[np.float64]
Sets = NDArray[np.bool_]


@dataclass(frozen=True)
class Conformal:
    """Thresholds that turn probabilities into sets of classes.

    coverage: the share of true classes that the sets hold, at least; 0..1.
    thresholds: one for all classes, or one per class; infinite where there were too few images to set one: then the
        class is in every set, the only way to keep the promise.
    num_images: that each threshold was set on.
    method: lac: smallest sets on average; hard images may get an empty one. aps: larger where the image is harder.
        raps: aps with a price on each class beyond `free_ranks`, so that sets do not grow long tails.
    randomised: aps and raps count a random part of the class's own probability, which makes the coverage exact instead
        of at least so much. An image's chance hangs on `seed` and on its row. Without it nothing of it is counted: the
        first class is always in the set.
    """

    method: str
    coverage: float
    thresholds: tuple[float, ...]
    num_images: tuple[int, ...]
    num_classes: int
    randomised: bool = False
    seed: int = 0
    penalty: float = 0.0
    free_ranks: int = 0

    def __post_init__(self) -> None:
        _check_coverage(self.coverage)
        if self.method not in METHODS:
            raise UserError(f"method {self.method!r}", ", ".join(METHODS), "Choose one of these.")
        if len(self.thresholds) not in (1, self.num_classes) or len(self.num_images) != len(self.thresholds):
            received = f"{len(self.thresholds)} thresholds of {len(self.num_images)} counts"
            raise UserError(received, f"1 or {self.num_classes} of each", "Fit it again.")

    @property
    def class_conditional(self) -> bool:
        return len(self.thresholds) > 1

    @property
    def without_threshold(self) -> tuple[int, ...]:
        """Classes that are in every set, because too few validation images could set their threshold."""
        each = self.thresholds * (1 if self.class_conditional else self.num_classes)
        return tuple(index for index, threshold in enumerate(each) if math.isinf(threshold))

    def sets(self, probabilities: ArrayLike, chances: ArrayLike | None = None) -> Sets:
        """bool [N, K]: the classes that may be true of each image.

        Args:
            probabilities: float32 [N, K], as fitted (the same temperature).
            chances: [N], 0..1, in place of those drawn from `seed`; only where `randomised`.

        Raises:
            UserError: another number of classes, or rows that are no probabilities.
        """
        rows = checked_rows(probabilities, self.num_classes)
        return np.asarray(self._scores(rows, chances) <= np.array(self.thresholds))

    def _scores(self, rows: Rows, chances: ArrayLike | None = None) -> Rows:
        """How ill each class suits each image: float64 [N, K]."""
        if self.method == "lac":
            return 1.0 - rows
        order = np.argsort(-rows, axis=1, kind="stable")
        falling = np.take_along_axis(rows, order, axis=1)
        scores = np.cumsum(falling, axis=1) - falling  # what the classes before it have; 0 for the first
        if self.randomised:
            scores += self._chances(len(rows), chances)[:, None] * falling
        scores += self.penalty * np.maximum(np.arange(1, rows.shape[1] + 1) - self.free_ranks, 0)
        of_class = np.empty_like(scores)
        np.put_along_axis(of_class, order, scores, axis=1)
        return of_class

    def _chances(self, num_images: int, given: ArrayLike | None) -> Rows:
        if given is None:
            return np.random.default_rng(self.seed).random(num_images)
        chances = np.asarray(given, dtype=np.float64)
        if chances.shape != (num_images,) or not ((chances >= 0) & (chances <= 1)).all():
            raise UserError(f"chances {list(chances.shape)}", f"[{num_images}] in 0..1", "Give one per image.")
        return chances

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an infinite threshold is None."""
        thresholds = [None if math.isinf(threshold) else threshold for threshold in self.thresholds]
        return {**asdict(self), "thresholds": thresholds, "num_images": list(self.num_images)}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Conformal:
        """Of what `to_dict` gave.

        Raises:
            UserError: entries that are missing, unknown or do not fit each other.
        """
        try:
            thresholds = tuple(saved_threshold(value) for value in saved["thresholds"])
            return cls(**{**saved, "thresholds": thresholds, "num_images": tuple(saved["num_images"])})
        except (KeyError, TypeError) as error:
            raise UserError(f"conformal entries {sorted(saved)}", "those of to_dict()", "Fit it again.") from error


def fit_conformal(
    probabilities: ArrayLike,
    targets: ArrayLike,
    coverage: float = 0.9,
    *,
    method: str = "lac",
    class_conditional: bool = False,
    randomised: bool = False,
    seed: int = 0,
    penalty: float = 0.01,
    free_ranks: int = 5,
) -> Conformal:
    """Split conformal prediction: the threshold under which ceil((n + 1) * coverage) of n true classes score.

    Args:
        probabilities: float32 [N, K] of images that were not trained on.
        targets: int64 [N].
        class_conditional: a threshold per class from that class's images (Mondrian), so that the promise holds for
            each class. A class of n images has one only where n >= coverage / (1 - coverage): 9 for 90 %.
        penalty, free_ranks: of raps: lambda and k_reg.

    Raises:
        UserError: no images, shapes that disagree, a coverage outside 0..1, or an unknown method.

    Source: lac: Sadinle, Lei, Wasserman, JASA 114 (2019), arXiv:1609.00451. aps: Romano, Sesia, Candes 2020,
    arXiv:2006.02544, eq. 8. raps: Angelopoulos et al. 2021, arXiv:2009.14193, eq. 4. Per class: Vovk et al.,
    "Algorithmic Learning in a Random World" (2005), 4.5. Without `randomised`, a class scores what the classes before
    it have together: the set ends with the class that crosses the threshold, as in Angelopoulos et al., algorithm 2.
    """
    labels = np.asarray(targets)
    rows = checked_rows(probabilities)
    if labels.shape != (len(rows),) or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(f"targets {labels.dtype} {list(labels.shape)}", f"int64 [{len(rows)}]", "Give one per image.")
    num_classes = rows.shape[1]
    if not len(rows) or labels.min() < 0 or labels.max() >= num_classes:
        fix = "Index the labels by the class list of the run."
        raise UserError(f"targets {np.unique(labels)[:9].tolist()}", f"class indices 0..{num_classes - 1}", fix)
    if not (penalty >= 0 and free_ranks >= 0):
        fix = "0.01 and 5 are those of the paper."
        raise UserError(f"penalty {penalty}, free_ranks {free_ranks}", "numbers of at least 0", fix)
    rule = Conformal(method, coverage, (math.inf,), (len(rows),), num_classes, randomised and method != "lac", seed)
    if method == "raps":
        rule = replace(rule, penalty=penalty, free_ranks=free_ranks)
    # Chances of another seed than those of the images to come, which would otherwise repeat them row by row.
    chances = np.random.default_rng((seed, 1)).random(len(rows))
    scores = rule._scores(rows, chances)[np.arange(len(rows)), labels]
    parts = [scores[labels == index] for index in range(num_classes)] if class_conditional else [scores]
    thresholds = tuple(finite_sample_quantile(part, coverage) for part in parts)
    return replace(rule, thresholds=thresholds, num_images=tuple(len(part) for part in parts))


def finite_sample_quantile(scores: NDArray[np.floating], coverage: float) -> float:
    """The ceil((n + 1) * coverage)-th smallest of n scores: one more score is at most that with this probability, or
    more. Infinite where n is too small for the rank to exist.

        >>> finite_sample_quantile(np.arange(1.0, 10.0), 0.9)
        9.0
        >>> finite_sample_quantile(np.arange(1.0, 9.0), 0.9)
        inf
    """
    _check_coverage(coverage)
    rank = math.ceil((len(scores) + 1) * coverage - 1e-9)  # (99 + 1) * 0.07 is 7.000000000000001
    return float(np.partition(scores, rank - 1)[rank - 1]) if rank <= len(scores) else math.inf


def saved_threshold(value: Any) -> float:
    """A threshold of JSON, where None stands for an infinite one.

    Raises:
        TypeError: it is neither None nor a number.
    """
    if value is None:
        return math.inf
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise TypeError(f"threshold {value!r}")
    return float(value)


def coverage_band(num_images: int, coverage: float, confidence: float = 0.95) -> tuple[float, float]:
    """Between which shares the true coverage of a threshold set on so many images lies, over draws of them.

    Beta(rank, n + 1 - rank), exact for scores without ties. (1, 1) where the threshold is infinite. Needs SciPy.

    Source: Vovk, "Conditional validity of inductive conformal predictors", 2012, arXiv:1209.2673.
    """
    from scipy.special import betaincinv

    _check_coverage(coverage)
    rank = math.ceil((num_images + 1) * coverage - 1e-9)
    if rank > num_images:
        return 1.0, 1.0
    low, high = (float(betaincinv(rank, num_images + 1 - rank, (1 + sign * confidence) / 2)) for sign in (-1, 1))
    return low, high


@dataclass(frozen=True)
class Halves:
    """Rows of validation images: for the temperature, and for conformal thresholds. shared: both are all of them."""

    temperature: NDArray[np.int64]
    conformal: NDArray[np.int64]
    shared: bool


def halves(num_images: int, seed: int = 0) -> Halves:
    """Validation images in two parts by a seeded shuffle, so that the temperature does not see the conformal part;
    below 200 images both get all of them, which `shared` says and which must be said to the reader of the figures."""
    if num_images < ENOUGH_TO_HALVE:
        return Halves(np.arange(num_images), np.arange(num_images), True)
    shuffled = np.random.default_rng(seed).permutation(num_images)
    return Halves(np.sort(shuffled[: num_images // 2]), np.sort(shuffled[num_images // 2 :]), False)


def checked_rows(probabilities: ArrayLike, num_classes: int | None = None) -> Rows:
    """Probabilities as float64 [N, K].

    Raises:
        UserError: another shape, or rows that do not sum to 1.
    """
    rows = np.asarray(probabilities, dtype=np.float64)
    if rows.ndim != 2 or not rows.shape[1] or num_classes not in (None, rows.shape[1]):
        expected = f"[N, {num_classes or 'K'}]"
        raise UserError(f"probabilities {list(rows.shape)}", expected, "Give one column per class of the run.")
    if not ((rows >= 0).all() and (np.abs(rows.sum(axis=1) - 1) < 1e-3).all()):
        raise UserError("rows that do not sum to 1", "probabilities", "Pass them through the temperature or a softmax.")
    return rows


def _check_coverage(coverage: float) -> None:
    if not 0 < coverage < 1:
        raise UserError(f"coverage {coverage}", "a number between 0 and 1", "0.9 is usual.")
