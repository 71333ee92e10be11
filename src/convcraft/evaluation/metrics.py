"""How good predictions are: figures with their uncertainty, per class and overall, and where they go wrong.

Labels are always range(K): a class that is absent from the images keeps its row, column and name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from convcraft.errors import UserError
from convcraft.evaluation.predictions import Predictions
from convcraft.statistics import bootstrap_interval, wilson_interval

TOP_K = (2, 3, 5)
CALIBRATION_BINS = 15  # Guo et al. 2017
SMALLEST_PROBABILITY = float(np.finfo(np.float32).tiny)  # below it float32 has no probabilities: a loss of 87 at most


@dataclass(frozen=True)
class ClassReport:
    """One class. A figure named in `undefined` has no images to be measured on and is given as 0, as in scikit-learn.

    support: images of this class; predicted: images called this class.
    recall_interval: Wilson, 95 %; None without support.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int
    predicted: int
    recall_interval: tuple[float, float] | None
    undefined: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "class": self.name,
            "precision": self.precision,
            "recall": self.recall,
            "recall_interval": None if self.recall_interval is None else list(self.recall_interval),
            "f1": self.f1,
            "support": self.support,
            "predicted": self.predicted,
            "undefined": list(self.undefined),
        }


@dataclass(frozen=True, eq=False)
class Calibration:
    """Does a confidence of 0.9 mean right nine times of ten? Equal-width bins of the confidence, (low, high].

    edges float64 [bins + 1]; counts int64, mean_confidence and accuracy float64 [bins] (0 where a bin is empty).
    expected_error: mean of |accuracy - confidence| over the images (ECE).
    """

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]
    mean_confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    expected_error: float


@dataclass(frozen=True, eq=False)
class Report:
    """All figures of one set of labelled predictions. Intervals are of 95 %."""

    classes: tuple[str, ...]
    num_images: int
    num_correct: int
    accuracy: float
    interval: tuple[float, float]  # of the accuracy (Wilson)
    balanced_accuracy: float  # mean recall of the classes that occur
    top_k: dict[int, float]
    per_class: tuple[ClassReport, ...]
    macro_precision: float
    macro_recall: float
    macro_f1: float  # over all K classes, absent ones as 0: scikit-learn's with labels=range(K)
    macro_f1_interval: tuple[float, float]  # bootstrap over the images
    weighted_f1: float
    log_loss: float
    calibration: Calibration
    confusion: NDArray[np.int64]  # [K, K], row: true class, column: predicted class

    @property
    def absent_classes(self) -> tuple[str, ...]:
        """Classes without a single image here."""
        return tuple(entry.name for entry in self.per_class if entry.support == 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_images": self.num_images,
            "num_correct": self.num_correct,
            "accuracy": self.accuracy,
            "interval": list(self.interval),
            "balanced_accuracy": self.balanced_accuracy,
            "top_k": {str(k): share for k, share in self.top_k.items()},
            "macro_precision": self.macro_precision,
            "macro_recall": self.macro_recall,
            "macro_f1": self.macro_f1,
            "macro_f1_interval": list(self.macro_f1_interval),
            "weighted_f1": self.weighted_f1,
            "log_loss": self.log_loss,
            "expected_calibration_error": self.calibration.expected_error,
            "classes": list(self.classes),
            "absent_classes": list(self.absent_classes),
            "per_class": [entry.to_dict() for entry in self.per_class],
            "confusion": self.confusion.tolist(),
        }


def classification_report(predictions: Predictions, num_resamples: int = 1000, seed: int = 0) -> Report:
    """Every figure of labelled predictions.

    Args:
        num_resamples, seed: of the bootstrap behind the interval of macro F1.

    Raises:
        UserError: no images, or images without targets.
    """
    targets, labels = _targets(predictions), predictions.labels
    indices = range(len(predictions.classes))
    confusion = confusion_matrix(targets, labels, labels=indices).astype(np.int64)
    per_class = _per_class(predictions.classes, targets, labels)
    macro = precision_recall_fscore_support(targets, labels, labels=indices, average="macro", zero_division=0)
    weighted = precision_recall_fscore_support(targets, labels, labels=indices, average="weighted", zero_division=0)
    num_correct = int((labels == targets).sum())

    def macro_f1(chosen: NDArray[np.int64]) -> float:
        return _macro_f1(targets[chosen], labels[chosen], len(predictions.classes))

    return Report(
        classes=predictions.classes,
        num_images=len(targets),
        num_correct=num_correct,
        accuracy=num_correct / len(targets),
        interval=wilson_interval(num_correct, len(targets)),
        balanced_accuracy=float(np.mean([entry.recall for entry in per_class if entry.support])),
        top_k=_top_k(predictions.probabilities, targets),
        per_class=per_class,
        macro_precision=float(macro[0]),
        macro_recall=float(macro[1]),
        macro_f1=float(macro[2]),
        macro_f1_interval=bootstrap_interval(macro_f1, len(targets), num_resamples=num_resamples, seed=seed),
        weighted_f1=float(weighted[2]),
        log_loss=float(_losses(predictions.probabilities, targets).mean()),
        calibration=calibration(predictions.confidence, labels == targets),
        confusion=confusion,
    )


def _targets(predictions: Predictions) -> NDArray[np.int64]:
    if predictions.targets is None:
        raise UserError("images without labels", "labelled images", "Use `predict` for images that nobody labelled.")
    if not len(predictions):
        raise UserError("no images", "at least one labelled image", "Check that the split is not empty.")
    return predictions.targets


def _per_class(
    classes: tuple[str, ...], targets: NDArray[np.int64], labels: NDArray[np.int64]
) -> tuple[ClassReport, ...]:
    precision, recall, f1, support = precision_recall_fscore_support(
        targets, labels, labels=range(len(classes)), zero_division=0
    )
    predicted = np.bincount(labels, minlength=len(classes))
    hits = np.bincount(targets[labels == targets], minlength=len(classes))
    entries = []
    for index, name in enumerate(classes):
        undefined = []
        if not predicted[index]:
            undefined.append("precision")
        if not support[index]:
            undefined.append("recall")
        if not predicted[index] and not support[index]:
            undefined.append("f1")
        entries.append(
            ClassReport(
                name=name,
                precision=float(precision[index]),
                recall=float(recall[index]),
                f1=float(f1[index]),
                support=int(support[index]),
                predicted=int(predicted[index]),
                recall_interval=wilson_interval(int(hits[index]), int(support[index])) if support[index] else None,
                undefined=tuple(undefined),
            )
        )
    return tuple(entries)


def _macro_f1(targets: NDArray[np.int64], labels: NDArray[np.int64], num_classes: int) -> float:
    """Mean F1 over all classes from three counts: quick enough for thousands of resamples."""
    hits = np.bincount(targets[targets == labels], minlength=num_classes)
    both = np.bincount(targets, minlength=num_classes) + np.bincount(labels, minlength=num_classes)
    return float(np.mean(2 * hits / np.maximum(both, 1)))


def _losses(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> NDArray[np.float64]:
    """Cross-entropy of each image, float64 [N]."""
    of_target = probabilities[np.arange(len(targets)), targets].astype(np.float64)
    return -np.log(np.clip(of_target, SMALLEST_PROBABILITY, 1.0))


def _top_k(probabilities: NDArray[np.float32], targets: NDArray[np.int64]) -> dict[int, float]:
    """Share of images whose class is among the k most probable; equals rank in class order, as for `labels`."""
    rows = np.arange(len(targets))
    of_target = probabilities[rows, targets][:, None]
    earlier = np.arange(probabilities.shape[1])[None, :] < targets[:, None]
    rank = ((probabilities > of_target) | ((probabilities == of_target) & earlier)).sum(axis=1)
    return {k: float((rank < k).mean()) for k in TOP_K if k < probabilities.shape[1]}


def calibration(
    confidence: NDArray[np.float32], correct: NDArray[np.bool_], num_bins: int = CALIBRATION_BINS
) -> Calibration:
    """Accuracy against confidence in equal-width bins, and the expected calibration error.

    Args:
        confidence: float32 [N], probability of the predicted class, 0..1.
        correct: bool [N].

    Source: Guo et al., "On Calibration of Modern Neural Networks", 2017, arXiv:1706.04599, eq. 3.
    """
    edges = np.linspace(0.0, 1.0, num_bins + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, num_bins - 1)
    counts = np.bincount(bins, minlength=num_bins)
    in_bin = np.maximum(counts, 1)
    mean_confidence = np.bincount(bins, weights=confidence, minlength=num_bins) / in_bin
    accuracy = np.bincount(bins, weights=correct, minlength=num_bins) / in_bin
    error = float((counts * np.abs(accuracy - mean_confidence)).sum() / max(len(confidence), 1))
    return Calibration(edges, counts.astype(np.int64), mean_confidence, accuracy, error)


@dataclass(frozen=True)
class Mistake:
    """One image that was called wrong.

    index: its row in the predictions. target, label: true and predicted class.
    probability: of the predicted class; target_probability: of the true one; loss: -log of the latter.
    """

    index: int
    name: str
    target: int
    label: int
    probability: float
    target_probability: float
    loss: float


def top_losses(predictions: Predictions, n: int) -> list[Mistake]:
    """The n worst mistakes, largest cross-entropy first: images that are hard, odd or labelled wrong.

    Only wrong predictions; equal losses keep the order of the images.

    Raises:
        UserError: images without targets.
    """
    targets, labels = _targets(predictions), predictions.labels
    losses = _losses(predictions.probabilities, targets)
    wrong = np.flatnonzero(labels != targets)
    worst = wrong[np.argsort(-losses[wrong], kind="stable")][: max(n, 0)]
    return [
        Mistake(
            index=int(row),
            name=predictions.names[row],
            target=int(targets[row]),
            label=int(labels[row]),
            probability=float(predictions.probabilities[row, labels[row]]),
            target_probability=float(predictions.probabilities[row, targets[row]]),
            loss=float(losses[row]),
        )
        for row in worst
    ]


def most_confused(matrix: NDArray[np.int64], n: int) -> list[tuple[int, int, int]]:
    """The n most frequent kinds of mistake as (true class, predicted class, count), most frequent first.

    Args:
        matrix: int64 [K, K], row: true class, column: predicted class.
    """
    mistakes = matrix.copy()
    np.fill_diagonal(mistakes, 0)
    order = np.argsort(-mistakes, axis=None, kind="stable")[: max(n, 0)]
    pairs = [divmod(int(cell), len(matrix)) for cell in order]
    return [(target, label, int(mistakes[target, label])) for target, label in pairs if mistakes[target, label]]
