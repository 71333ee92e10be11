"""How good predictions are where an image may carry several labels, or none: figures per label and overall.

A label counts as called where its probability is above the threshold (torchmetrics' rule; exactly 0.5 is a no).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.errors import UserError
from convcraft.evaluation.label_f1 import f1_scores, hit_share, macro_f1_influence, weighted_f1_influence
from convcraft.evaluation.proper_scores import SMALLEST_PROBABILITY
from convcraft.evaluation.ranking import ClassRanking, micro_auroc, rank_classes
from convcraft.evaluation.reliability import calibration
from convcraft.statistics import bootstrap_interval, mean_and_spread, wilson_interval

Interval = tuple[float, float]
Counts = NDArray[np.int64]
Table = NDArray[np.bool_]


@dataclass(frozen=True)
class LabelReport:
    """One label; intervals are of 95 %. What has no images to be measured on is named in `undefined`: precision, recall
    and F1 are then 0, as in scikit-learn, the others None.

    support: images that carry it; predicted: images on which it was called. Intervals of precision and recall: Wilson.
    brier: mean (probability - target)^2, 0..1. log_loss: of the two-way question, nats. Their intervals: Student's t,
    None for a single image.
    expected_calibration_error: of the probability of the label itself, in 15 bins (not of the more probable answer).
    """

    name: str
    precision: float
    precision_interval: Interval | None
    recall: float
    recall_interval: Interval | None
    f1: float
    support: int
    predicted: int
    auroc: float | None
    auroc_interval: Interval | None
    average_precision: float | None
    average_precision_interval: Interval | None
    brier: float
    brier_interval: Interval | None
    log_loss: float
    log_loss_interval: Interval | None
    expected_calibration_error: float
    undefined: tuple[str, ...]


@dataclass(frozen=True)
class MultiLabelReport:
    """All figures of one set of predictions with several labels per image.

    subset_accuracy: share of images with every label right (Wilson's interval). hamming_loss: share of wrong answers.
    samples_f1: mean F1 of the images; 0 for one without labels on which none is called, as in scikit-learn.
    mean_average_precision, macro_auroc: mean over the labels that have them; None where none has, then in `undefined`.
    Other intervals: percentile bootstrap over the images, so that the labels of an image stay together; of macro and
    weighted F1, mean average precision and AUROC in its linear form (see `ranking`), for a thousand labels in seconds.
    """

    labels: tuple[str, ...]
    num_images: int
    thresholds: tuple[float, ...]
    subset_accuracy: float
    subset_accuracy_interval: Interval
    hamming_loss: float
    hamming_loss_interval: Interval
    macro_precision: float
    macro_recall: float
    macro_f1: float
    macro_f1_interval: Interval
    micro_precision: float
    micro_recall: float
    micro_f1: float
    micro_f1_interval: Interval
    weighted_f1: float
    weighted_f1_interval: Interval
    samples_f1: float
    samples_f1_interval: Interval
    mean_average_precision: float | None
    mean_average_precision_interval: Interval | None
    macro_auroc: float | None
    macro_auroc_interval: Interval | None
    micro_auroc: float | None
    micro_auroc_interval: Interval | None
    brier: float  # mean over the labels
    brier_interval: Interval
    log_loss: float  # mean over the labels
    log_loss_interval: Interval
    per_label: tuple[LabelReport, ...]

    @property
    def undefined(self) -> tuple[str, ...]:
        """Figures that these images cannot give."""
        names = ("mean_average_precision", "macro_auroc", "micro_auroc")
        return tuple(name for name in names if getattr(self, name) is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {name: _plain(value) for name, value in vars(self).items() if name != "per_label"}
        per_label = [{name: _plain(value) for name, value in vars(entry).items()} for entry in self.per_label]
        return {**values, "undefined": list(self.undefined), "per_label": per_label}


def multilabel_report(
    labels: tuple[str, ...],
    targets: ArrayLike,
    probabilities: ArrayLike,
    threshold: float | ArrayLike = 0.5,
    num_resamples: int = 1000,
    seed: int = 0,
) -> MultiLabelReport:
    """Every figure of predictions with several labels per image.

    Args:
        labels: K names.
        targets: bool, or numbers that are all 0 or 1, [N, K].
        probabilities: float [N, K], 0..1, each by itself (sigmoid of the logit); rows need not sum to 1.
        threshold: one for all labels or one each, float [K].
        num_resamples, seed: of the bootstrap behind the intervals.

    Raises:
        UserError: no images, shapes that disagree, targets that are not 0 or 1, or probabilities outside 0..1.
    """
    table, truth = _checked(labels, targets, probabilities)
    thresholds = np.broadcast_to(np.asarray(threshold, dtype=np.float64), (len(labels),))
    called = table > thresholds
    hits = called & truth
    ranking = rank_classes(table, truth, num_resamples, seed)
    of_all_pairs = micro_auroc(table, truth, num_resamples, seed)
    squares = (table.astype(np.float64) - truth) ** 2
    losses = _cross_entropies(table, truth)

    def interval(statistic: Callable[[Counts], float]) -> Interval:
        return bootstrap_interval(statistic, len(table), num_resamples=num_resamples, seed=seed)

    def mean_interval(values: NDArray[np.floating]) -> Interval:
        return interval(lambda rows: float(values[rows].mean()))

    counts = [cells.sum(axis=0, dtype=np.int64) for cells in (hits, truth, called)]
    per_image = [cells.sum(axis=1, dtype=np.int64) for cells in (hits, truth, called)]
    macro_f1, weighted_f1 = macro_f1_influence(hits, truth, called), weighted_f1_influence(hits, truth, called)
    image_f1 = f1_scores(*per_image)
    exact = (called == truth).all(axis=1)
    wrong, image_squares, image_losses = (values.mean(axis=1) for values in (called != truth, squares, losses))
    precision, recall = hit_share(counts[0], counts[2]), hit_share(counts[0], counts[1])
    totals = [values.sum() for values in counts]
    return MultiLabelReport(
        labels=labels,
        num_images=len(table),
        thresholds=tuple(float(value) for value in thresholds),
        subset_accuracy=float(exact.mean()),
        subset_accuracy_interval=wilson_interval(int(exact.sum()), len(exact)),
        hamming_loss=float(wrong.mean()),
        hamming_loss_interval=mean_interval(wrong),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=macro_f1.figure,
        macro_f1_interval=macro_f1.interval(num_resamples, seed),
        micro_precision=float(hit_share(totals[0], totals[2])),
        micro_recall=float(hit_share(totals[0], totals[1])),
        micro_f1=float(f1_scores(*totals)),
        micro_f1_interval=interval(lambda rows: float(f1_scores(*(values[rows].sum() for values in per_image)))),
        weighted_f1=weighted_f1.figure,
        weighted_f1_interval=weighted_f1.interval(num_resamples, seed),
        samples_f1=float(image_f1.mean()),
        samples_f1_interval=mean_interval(image_f1),
        mean_average_precision=ranking.average_precision,
        mean_average_precision_interval=ranking.average_precision_interval,
        macro_auroc=ranking.auroc,
        macro_auroc_interval=ranking.auroc_interval,
        micro_auroc=of_all_pairs[0],
        micro_auroc_interval=of_all_pairs[1],
        brier=float(image_squares.mean()),
        brier_interval=mean_interval(image_squares),
        log_loss=float(image_losses.mean()),
        log_loss_interval=mean_interval(image_losses),
        per_label=tuple(
            _label_report(
                name,
                int(counts[0][index]),
                int(counts[1][index]),
                int(counts[2][index]),
                ranking.per_class[index],
                squares[:, index],
                losses[:, index],
                calibration(table[:, index].astype(np.float32), truth[:, index]).expected_error,
            )
            for index, name in enumerate(labels)
        ),
    )


def _label_report(
    name: str,
    hits: int,
    support: int,
    predicted: int,
    ranking: ClassRanking,
    squares: NDArray[np.float64],
    losses: NDArray[np.float64],
    calibration_error: float,
) -> LabelReport:
    missing = {
        "precision": not predicted,
        "recall": not support,
        "f1": not predicted and not support,
        "auroc": ranking.auroc is None,
        "average_precision": ranking.average_precision is None,
    }
    return LabelReport(
        name=name,
        precision=hits / max(predicted, 1),
        precision_interval=wilson_interval(hits, predicted) if predicted else None,
        recall=hits / max(support, 1),
        recall_interval=wilson_interval(hits, support) if support else None,
        f1=2 * hits / max(support + predicted, 1),
        support=support,
        predicted=predicted,
        **dataclasses.asdict(ranking),
        brier=float(squares.mean()),
        brier_interval=_mean_interval(squares),
        log_loss=float(losses.mean()),
        log_loss_interval=_mean_interval(losses),
        expected_calibration_error=calibration_error,
        undefined=tuple(figure for figure, is_missing in missing.items() if is_missing),
    )


def _cross_entropies(probabilities: NDArray[np.floating], truth: Table) -> NDArray[np.float64]:
    """-log of the probability of the true answer, float64 [N, K]."""
    of_truth = np.where(truth, probabilities, 1.0 - probabilities.astype(np.float64))
    return np.asarray(-np.log(np.clip(of_truth, SMALLEST_PROBABILITY, 1.0)))


def _mean_interval(values: NDArray[np.float64]) -> Interval | None:
    interval = mean_and_spread(cast("Sequence[float]", values)).interval
    return None if interval is None else (max(0.0, interval[0]), interval[1])


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _checked(
    labels: tuple[str, ...], targets: ArrayLike, probabilities: ArrayLike
) -> tuple[NDArray[np.floating], Table]:
    truth, table = np.asarray(targets), np.asarray(probabilities)
    if table.ndim != 2 or table.shape != truth.shape or table.shape[1] != len(labels) or not table.size:
        raise UserError(
            f"targets {list(truth.shape)}, probabilities {list(table.shape)}, {len(labels)} labels",
            "[N, K] both, K labels and at least one image",
            "Give one row per image and one column per label.",
        )
    if not ((truth == 0) | (truth == 1)).all():
        raise UserError(
            f"a target of {truth[(truth != 0) & (truth != 1)][0]}", "0 or 1", "Decide soft or missing labels first."
        )
    if not np.issubdtype(table.dtype, np.floating) or not ((table >= 0) & (table <= 1)).all():
        raise UserError(
            f"probabilities {table.dtype} outside 0..1", "float [N, K], 0..1", "Pass sigmoid(logits), without NaN."
        )
    return table, truth.astype(bool)
