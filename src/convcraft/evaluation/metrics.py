"""How good predictions are: figures with their uncertainty, per class and overall, and where they go wrong.

Labels are always range(K): a class that is absent from the images keeps its row, column and name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from convcraft.evaluation.mistakes import Mistake, most_confused, top_losses
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.proper_scores import (
    SMALLEST_PROBABILITY,
    brier_scores,
    cross_entropies,
    labelled_targets,
)
from convcraft.evaluation.ranking import ClassRanking, rank_classes
from convcraft.evaluation.reliability import Calibration, calibration
from convcraft.statistics import bootstrap_interval, wilson_interval

__all__ = [
    "SMALLEST_PROBABILITY",
    "Calibration",
    "ClassReport",
    "Mistake",
    "Report",
    "calibration",
    "classification_report",
    "most_confused",
    "top_losses",
]
TOP_K = (2, 3, 5)
Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassReport:
    """One class. A figure named in `undefined` has no images to be measured on: precision, recall and F1 are then 0, as
    in scikit-learn, the others None.

    support: images of this class; predicted: images called this class.
    recall_interval: Wilson, 95 %; None without support.
    auroc, average_precision: this class against the rest; their intervals (95 %) are DeLong's and Wilson's.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int
    recall_interval: Interval | None
    auroc: float | None
    auroc_interval: Interval | None
    average_precision: float | None
    average_precision_interval: Interval | None
    undefined: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "class": self.name,
            "precision": self.precision,
            "recall": self.recall,
            "recall_interval": _listed(self.recall_interval),
            "f1": self.f1,
            "support": self.support,
            "predicted": self.predicted,
            "auroc": self.auroc,
            "auroc_interval": _listed(self.auroc_interval),
            "average_precision": self.average_precision,
            "average_precision_interval": _listed(self.average_precision_interval),
            "undefined": list(self.undefined),
        }


@dataclass(frozen=True, eq=False)
class Report:
    """All figures of one set of labelled predictions.

    Intervals are of 95 %: Wilson's for shares of images, a percentile bootstrap over the images for the others.
    auroc, average_precision: mean over the classes that have them; None where none has, then named in `undefined`.
    """

    classes: tuple[str, ...]
    num_images: int
    num_correct: int
    accuracy: float
    interval: Interval  # of the accuracy (Wilson)
    balanced_accuracy: float  # mean recall of the classes that occur
    balanced_accuracy_interval: Interval
    top_k: dict[int, float]
    per_class: tuple[ClassReport, ...]
    macro_precision: float
    macro_recall: float
    macro_f1: float  # over all K classes, absent ones as 0: scikit-learn's with labels=range(K)
    macro_f1_interval: Interval
    weighted_f1: float
    auroc: float | None
    auroc_interval: Interval | None
    average_precision: float | None
    average_precision_interval: Interval | None
    log_loss: float
    log_loss_interval: Interval
    brier: float  # 0..2, summed over the classes; twice scikit-learn's where K = 2
    brier_interval: Interval
    calibration: Calibration
    confusion: NDArray[np.int64]  # [K, K], row: true class, column: predicted class

    @property
    def micro_f1(self) -> float:
        """The accuracy: with one label per image, every wrong call is one false positive and one false negative."""
        return self.accuracy

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes without a single image here."""
        return tuple(entry.name for entry in self.per_class if entry.support == 0)

    @property
    def undefined(self) -> tuple[str, ...]:
        """Figures that these images cannot give (AUROC where all are of one class)."""
        return tuple(name for name in ("auroc", "average_precision") if getattr(self, name) is None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_images": self.num_images,
            "num_correct": self.num_correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "balanced_accuracy": self.balanced_accuracy,
            "balanced_accuracy_interval": list(self.balanced_accuracy_interval),
            "top_k": {str(k): share for k, share in self.top_k.items()},
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "macro_f1_interval": list(self.macro_f1_interval),
            "micro_precision": self.micro_f1,
            "micro_recall": self.micro_f1,
            "micro_f1": self.micro_f1,
            "micro_f1_interval": list(self.interval),
            "weighted_f1": self.weighted_f1,
            "auroc": self.auroc,
            "auroc_interval": _listed(self.auroc_interval),
            "average_precision": self.average_precision,
            "average_precision_interval": _listed(self.average_precision_interval),
            "log_loss": self.log_loss,
            "log_loss_interval": list(self.log_loss_interval),
            "brier": self.brier,
            "brier_interval": list(self.brier_interval),
            "expected_calibration_error": self.calibration.expected_error,
            "undefined": list(self.undefined),
            "classes": list(self.classes),
            "absent_classes": list(self.absent_classes),
            "per_class": [entry.to_dict() for entry in self.per_class],
            "confusion": self.confusion.tolist(),
        }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)


def classification_report(predictions: Predictions, num_resamples: int = 1000, seed: int = 0) -> Report:
    """Every figure of labelled predictions.

    Args:
        num_resamples, seed: of the bootstrap behind the intervals.

    Raises:
        UserError: no images, or images without targets.
    """
    targets, labels, table = labelled_targets(predictions), predictions.labels, predictions.probabilities
    num_images, num_classes = table.shape
    confusion = confusion_matrix(targets, labels, labels=range(num_classes)).astype(np.int64)
    ranking = rank_classes(table, targets[:, None] == np.arange(num_classes), num_resamples, seed)
    per_class = _per_class(predictions.classes, targets, labels, ranking.per_class)
    averages = [
        precision_recall_fscore_support(targets, labels, labels=range(num_classes), average=average, zero_division=0)
        for average in ("macro", "weighted")
    ]
    losses, squares = cross_entropies(table, targets), brier_scores(table, targets)
    num_correct = int((labels == targets).sum())

    def interval(statistic: Callable[[NDArray[np.int64]], float]) -> Interval:
        return bootstrap_interval(statistic, num_images, num_resamples=num_resamples, seed=seed)

    return Report(
        classes=predictions.classes,
        num_images=num_images,
        num_correct=num_correct,
        accuracy=num_correct / num_images,
        interval=wilson_interval(num_correct, num_images),
        balanced_accuracy=float(np.mean([entry.recall for entry in per_class if entry.support])),
        balanced_accuracy_interval=interval(lambda rows: _balanced_accuracy(targets[rows], labels[rows], num_classes)),
        top_k=_top_k(table, targets),
        per_class=per_class,
        macro_precision=float(averages[0][0]),
        macro_recall=float(averages[0][1]),
        macro_f1=float(averages[0][2]),
        macro_f1_interval=interval(lambda rows: _macro_f1(targets[rows], labels[rows], num_classes)),
        weighted_f1=float(averages[1][2]),
        auroc=ranking.auroc,
        auroc_interval=ranking.auroc_interval,
        average_precision=ranking.average_precision,
        average_precision_interval=ranking.average_precision_interval,
        log_loss=float(losses.mean()),
        log_loss_interval=interval(lambda rows: float(losses[rows].mean())),
        brier=float(squares.mean()),
        brier_interval=interval(lambda rows: float(squares[rows].mean())),
        calibration=calibration(predictions.confidence, labels == targets),
        confusion=confusion,
    )


def _per_class(
    classes: tuple[str, ...],
    targets: NDArray[np.int64],
    labels: NDArray[np.int64],
    rankings: tuple[ClassRanking, ...],
) -> tuple[ClassReport, ...]:
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, labels, labels=range(len(classes)), zero_division=0
    )
    predicted = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(targets[labels == targets], minlength=len(classes))
    entries = []
    for index, (name, ranking) in enumerate(zip(classes, rankings, strict=True)):
        missing = {
            "precision": not predicted[index],
            "recall": not support[index],
            "f1": not predicted[index] and not support[index],
            "auroc": ranking.auroc is None,
            "average_precision": ranking.average_precision is None,
        }
        entries.append(
            ClassReport(
                name=name,
                precision=float(precision[index]),
                recall=float(recall[index]),
                f1=float(f1[index]),
                support=int(support[index]),
                predicted=int(predicted[index]),
                recall_interval=wilson_interval(int(hits[index]), int(support[index])) if support[index] else None,
                auroc=ranking.auroc,
                auroc_interval=ranking.auroc_interval,
                average_precision=ranking.average_precision,
                average_precision_interval=ranking.average_precision_interval,
                undefined=tuple(figure for figure, is_missing in missing.items() if is_missing),
            )
        )
    return tuple(entries)


def _balanced_accuracy(targets: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> float:
    """Mean recall of the classes that occur."""
    support = np.bincount(targets, minlength=num_classes)
    hits = np.bincount(targets[targets == labels], minlength=num_classes)
    present = support > 0
    return float((hits[present] / support[present]).mean())


def _macro_f1(targets: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> float:
    """Mean F1 over all classes from three counts: quick enough for thousands of resamples."""
    hits = np.bincount(targets[targets == labels], minlength=num_classes)
    both = np.bincount(targets, minlength=num_classes) + np.bincount(labels, minlength=num_classes)
    return float(np.mean(2 * hits / np.maximum(both, 1)))


def _top_k(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[int, float]:
    """Share of images whose class is among the k most probable; equals rank in class order, as for `labels`."""
    rows = np.arange(len(targets))
    of_target = probabilities[rows, targets][:, None]
    earlier = np.arange(probabilities.shape[1])[None, :] < targets[:, None]
    rank = ((probabilities > of_target) | ((probabilities == of_target) & earlier)).sum(axis=1)
    return {k: float((rank < k).mean()) for k in TOP_K if k < probabilities.shape[1]}
