"""How well scores put the images of a class before the others: AUROC and average precision, with intervals.

Both depend on the order of the scores alone, so no threshold is needed. With two classes either class's AUROC is the
binary one (the two are equal but for rounding of the probabilities); average precision depends on which is positive.

The intervals need no second sort. A figure computed from N images moves, when image i is given a little more weight,
by its influence u_i. A resample's figure is taken as figure + sum of the drawn influences (the linear part of the
bootstrap), which costs N additions however many classes there are. For AUROC this is DeLong's variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.statistics import bootstrap_interval, wilson_interval

Floats = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassRanking:
    """One class against the rest; intervals are of 95 %.

    auroc: None unless the class has images and so has the rest. average_precision: None without images of the class.
    """

    auroc: float | None
    auroc_interval: Interval | None
    average_precision: float | None
    average_precision_interval: Interval | None


@dataclass(frozen=True)
class Ranking:
    """Macro figures, each the mean over the classes where it is defined, and those of each class. None where no class
    has the figure. Intervals: 95 %, linear bootstrap over the images."""

    auroc: float | None
    auroc_interval: Interval | None
    average_precision: float | None
    average_precision_interval: Interval | None
    per_class: tuple[ClassRanking, ...]


@dataclass(frozen=True, eq=False)
class Influence:
    """A figure and how far each image moves it: values float64 [N], with a sum of 0."""

    figure: float
    values: Floats

    def interval(self, num_resamples: int = 1000, seed: int = 0) -> Interval:
        """Percentile interval of the linear bootstrap, cut at 0 and 1. Empty where every image is ranked right."""
        drawn = bootstrap_interval(
            lambda rows: self.figure + float(self.values[rows].sum()),
            len(self.values),
            num_resamples=num_resamples,
            seed=seed,
        )
        return max(0.0, drawn[0]), min(1.0, drawn[1])


def rank_classes(scores: ArrayLike, positive: ArrayLike, num_resamples: int = 1000, seed: int = 0) -> Ranking:
    """AUROC and average precision of K classes, each against the rest.

    Args:
        scores: float [N, K], larger where class k is more likely; equal scores count as a tie, never as an order.
        positive: bool [N, K], image n belongs to class k.
        num_resamples, seed: of the bootstrap behind the macro intervals.

    Raises:
        UserError: no images, arrays of unlike shape, or scores that are not finite.
    """
    table, members = _checked(scores, positive)
    auroc, precision = _MeanInfluence(len(table)), _MeanInfluence(len(table))
    entries = []
    for column, member in zip(np.ascontiguousarray(table.T), np.ascontiguousarray(members.T), strict=True):
        sorted_class = SortedScores.of(column, member)
        of_auroc, of_precision = sorted_class.auroc(), sorted_class.average_precision()
        auroc.add(of_auroc)
        precision.add(of_precision)
        entries.append(_class_ranking(sorted_class, of_auroc, of_precision))
    macro_auroc, macro_precision = auroc.mean(), precision.mean()
    return Ranking(
        auroc=macro_auroc.figure if macro_auroc else None,
        auroc_interval=macro_auroc.interval(num_resamples, seed) if macro_auroc else None,
        average_precision=macro_precision.figure if macro_precision else None,
        average_precision_interval=macro_precision.interval(num_resamples, seed) if macro_precision else None,
        per_class=tuple(entries),
    )


def micro_auroc(
    scores: ArrayLike, positive: ArrayLike, num_resamples: int = 1000, seed: int = 0
) -> tuple[float | None, Interval | None]:
    """AUROC of all N x K pairs of image and label in one ranking, and its interval over the images.

    Arguments and errors as in `rank_classes`; (None, None) where every pair is positive, or none is.
    """
    table, members = _checked(scores, positive)
    pairs = SortedScores.of(table.ravel(), members.ravel()).auroc()
    if pairs is None:
        return None, None
    of_images = Influence(pairs.figure, pairs.values.reshape(table.shape).sum(axis=1))
    return of_images.figure, of_images.interval(num_resamples, seed)


@dataclass(frozen=True, eq=False)
class SortedScores:
    """The images of one class and the rest, in rising order of the score; equal scores form one group.

    order: int64 [N]. starts, sizes, positives: int64 [G], first place, number and positives of each group.
    positive: bool [N], in the order of the images.
    """

    order: NDArray[np.int64]
    starts: NDArray[np.int64]
    sizes: NDArray[np.int64]
    positives: NDArray[np.int64]
    positive: NDArray[np.bool_]

    @classmethod
    def of(cls, scores: NDArray[np.floating], positive: NDArray[np.bool_]) -> SortedScores:
        order = np.argsort(scores)
        rising = scores[order]
        starts = np.flatnonzero(np.concatenate(([True], rising[1:] != rising[:-1])))
        sizes = np.diff(starts, append=len(rising))
        return cls(order, starts, sizes, np.add.reduceat(positive[order].astype(np.int64), starts), positive)

    @property
    def num_positive(self) -> int:
        return int(self.positives.sum())

    @property
    def num_negative(self) -> int:
        return len(self.order) - self.num_positive

    def placements(self) -> tuple[Floats, Floats]:
        """For each group, float64 [G]: share of negatives below a positive of it, of positives above a negative of it.

        Ties count half. These are DeLong's structural components V10 and V01.
        """
        negatives = self.sizes - self.positives
        negatives_below = np.cumsum(negatives) - negatives
        positives_above = self.num_positive - np.cumsum(self.positives)
        return (
            (negatives_below + negatives / 2) / self.num_negative,
            (positives_above + self.positives / 2) / self.num_positive,
        )

    def auroc(self) -> Influence | None:
        """P(a positive scores higher than a negative), ties half; None without positives or without negatives.

        Source: Mann and Whitney (1947); influence: DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), eq. 4-6.
        """
        if not self.num_positive or not self.num_negative:
            return None
        of_positives, of_negatives = self.placements()
        figure = float(self.positives @ of_positives) / self.num_positive
        return Influence(
            figure,
            self._of_images(
                (of_positives - figure) / self.num_positive,
                (of_negatives - figure) / self.num_negative,
            ),
        )

    def average_precision(self) -> Influence | None:
        """Mean precision at the scores of the positives, not interpolated; None without positives.

        Influence: a further positive brings its own precision and raises the precision at every lower positive, a
        further negative lowers those.
        """
        if not self.num_positive:
            return None
        called = len(self.order) - self.starts  # images that score at least as high as this group
        precision = (self.num_positive - np.cumsum(self.positives) + self.positives) / called
        figure = float(self.positives @ precision) / self.num_positive
        weight = self.positives / called / self.num_positive
        raised, lowered = np.cumsum(weight * (1 - precision)), np.cumsum(weight * precision)
        return Influence(figure, self._of_images((precision - figure) / self.num_positive + raised, -lowered))

    def _of_images(self, if_positive: Floats, if_negative: Floats) -> Floats:
        """Values of the groups [G], spread over the images [N]."""
        group = np.empty(len(self.order), dtype=np.int64)
        group[self.order] = np.repeat(np.arange(len(self.sizes)), self.sizes)
        return np.where(self.positive, if_positive[group], if_negative[group])


def delong_interval(scores: SortedScores, confidence: float = 0.95) -> Interval | None:
    """Interval of the AUROC of one class; None where it is undefined.

    DeLong's variance has no width where all images are ranked right, and claims too much for few images. So one more
    positive and one more negative that rank by chance (V10 = V01 = 1/2) are counted in, as Agresti and Coull do for a
    proportion: with 20 images of a class ranked perfectly the interval begins at 0.93, not at 1.

    Source: DeLong et al. 1988 (as above) for the variance; Agresti and Coull, The American Statistician 52 (1998).
    """
    num_positive, num_negative = scores.num_positive, scores.num_negative
    if not num_positive or not num_negative:
        return None
    of_positives, of_negatives = scores.placements()
    variance = _error_of_mean_squared(of_positives, scores.positives)
    variance += _error_of_mean_squared(of_negatives, scores.sizes - scores.positives)
    observed = float(scores.positives @ of_positives) / num_positive
    pairs = num_positive * num_negative
    centre = (observed * pairs + (num_positive + num_negative + 1) / 2) / ((num_positive + 1) * (num_negative + 1))
    half = NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt(variance)
    return max(0.0, centre - half), min(1.0, centre + half)


def _error_of_mean_squared(values: Floats, counts: NDArray[np.int64]) -> float:
    """Variance of the mean of `values`, each as often as `counts` says, and of one more of 1/2."""
    number = int(counts.sum())
    mean = (float(counts @ values) + 0.5) / (number + 1)
    squares = float(counts @ (values - mean) ** 2) + (0.5 - mean) ** 2
    return squares / number / (number + 1)


def _class_ranking(scores: SortedScores, auroc: Influence | None, precision: Influence | None) -> ClassRanking:
    """Average precision's interval: Wilson's, as if it were the share right of the positives (the binomial interval of
    Boyd, Eng and Page, ECML 2013, in its score form)."""
    share = min(precision.figure, 1.0) if precision else 0.0  # a mean of ones may round to 1 + 1e-16
    positives = scores.num_positive
    return ClassRanking(
        auroc=auroc.figure if auroc else None,
        auroc_interval=delong_interval(scores),
        average_precision=share if precision else None,
        average_precision_interval=wilson_interval(share * positives, positives) if precision else None,
    )


class _MeanInfluence:
    """The mean of figures that share their images, and its influence."""

    def __init__(self, num_images: int) -> None:
        self._figures: list[float] = []
        self._values = np.zeros(num_images)

    def add(self, influence: Influence | None) -> None:
        if influence is not None:
            self._figures.append(influence.figure)
            self._values += influence.values

    def mean(self) -> Influence | None:
        number = len(self._figures)
        return Influence(math.fsum(self._figures) / number, self._values / number) if number else None


def _checked(scores: ArrayLike, positive: ArrayLike) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    table, members = np.asarray(scores), np.asarray(positive)
    if table.ndim != 2 or table.shape != members.shape or not len(table) or members.dtype != bool:
        raise UserError(
            f"scores {list(table.shape)} and {members.dtype} {list(members.shape)}",
            "scores [N, K] and bool [N, K] with at least one image",
            "Give one row per image and one column per class.",
        )
    if not np.issubdtype(table.dtype, np.floating) or not np.isfinite(table).all():
        raise UserError("scores that are not finite numbers", "float [N, K]", "Look for NaN in the model's outputs.")
    return table, members
