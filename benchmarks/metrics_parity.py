"""How far every evaluation figure is from scikit-learn's and torchmetrics', how long a report takes, and whether the
AUROC's interval keeps its promise.

    python benchmarks/metrics_parity.py    # a minute on one core

`differences`: the largest absolute difference of each figure over `tables` random tables (1 to 200 images, 2 to 12
classes; half of them with tied probabilities, a third with a class that is absent), where both define the figure.
torchmetrics is compared only where it defines a figure alike; `defined_otherwise` says where it does not.
`seconds`: one whole report with 1,000 resamples on one thread; the wall time holds what else the machine did.
`coverage`: how often the 95 % interval of one class's AUROC held the true value over 2,000 draws, beside DeLong's plain
interval. Results: benchmarks/results/metrics_parity.json.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from measured_on import hardware, stolen_seconds, versions, write_result
from numpy.typing import NDArray
from scipy.stats import norm
from sklearn import metrics as sk
from torchmetrics.functional import classification as tm

from convcraft.evaluation.metrics import Report, classification_report
from convcraft.evaluation.multilabel import MultiLabelReport, multilabel_report
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.evaluation.ranking import SortedScores, delong_interval

DEFINED_OTHERWISE = {
    "auroc": "torchmetrics gives a class without positives or without negatives 0 and counts it in the macro mean; "
    "here, and where scikit-learn warns, such a class has none",
    "average_precision": "scikit-learn gives a class without images 0 and counts it; torchmetrics gives NaN and leaves "
    "it out of the mean, as here",
    "macro_f1": "torchmetrics leaves out classes that are neither present nor called; here they count as 0, as in "
    "scikit-learn with labels=range(K)",
    "balanced_accuracy": "torchmetrics' macro accuracy counts absent classes that are called as 0; here absent "
    "classes are left out, as in scikit-learn",
    "brier": "scikit-learn halves it for two classes; torchmetrics has none",
    "log_loss": "scikit-learn cuts probabilities at the precision of the dtype, here at the smallest of float32: they "
    "differ where the true class has a probability below 2e-16",
    "samples_f1": "scikit-learn's, with 0 for an image without labels and calls; torchmetrics has none over labels",
    "threshold": "a label is called above the threshold, as in torchmetrics; scikit-learn has no rule",
}
Pairs = Iterator[tuple[str, float | None, float]]


def single_label(random: np.random.Generator, tied: bool, absent: bool) -> Predictions:
    num_images, num_classes = int(random.integers(1, 201)), int(random.integers(2, 13))
    targets = random.integers(1 if absent else 0, num_classes, num_images)
    logits = random.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += random.uniform(0, 3)
    table = softmax(np.round(logits) if tied else logits)
    return Predictions(tuple(map(str, range(num_classes))), table, targets, tuple(map(str, range(num_images))))


def against_scikit_learn(predictions: Predictions, report: Report) -> Pairs:
    truth, table, called = predictions.targets, predictions.probabilities, predictions.labels
    assert truth is not None
    indices = list(range(table.shape[1]))
    wide = table.astype(np.float64)
    wide /= wide.sum(axis=1, keepdims=True)
    members = truth[:, None] == np.array(indices)
    yield "accuracy", report.accuracy, sk.accuracy_score(truth, called)
    yield "balanced_accuracy", report.balanced_accuracy, sk.balanced_accuracy_score(truth, called)
    for average in ("micro", "macro", "weighted"):
        f1 = sk.f1_score(truth, called, labels=indices, average=average, zero_division=0)
        yield f"{average}_f1", getattr(report, f"{average}_f1"), f1
    yield "brier", report.brier, sk.brier_score_loss(truth, table, labels=indices, scale_by_half=False)
    yield "log_loss", report.log_loss, sk.log_loss(truth, wide, labels=indices)
    for entry, member, column in zip(report.per_class, members.T, table.T, strict=True):
        if member.any():
            yield "average_precision", entry.average_precision, sk.average_precision_score(member, column)
        if 0 < member.sum() < len(member):
            yield "auroc", entry.auroc, sk.roc_auc_score(member, column)


def against_torchmetrics(predictions: Predictions, report: Report) -> Pairs:
    table, truth, num_classes = torch.tensor(predictions.probabilities), predictions.targets, len(predictions.classes)
    assert truth is not None
    targets = torch.tensor(truth)
    accuracy = tm.multiclass_accuracy(table, targets, num_classes, average="micro")
    yield "accuracy", report.accuracy, float(accuracy)
    error = tm.multiclass_calibration_error(table, targets, num_classes, n_bins=15)
    yield "expected_calibration_error", report.calibration.expected_error, float(error)
    rankings = (("auroc", tm.multiclass_auroc), ("average_precision", tm.multiclass_average_precision))
    for figure, measure in rankings:
        for entry, value in zip(report.per_class, measure(table, targets, num_classes, average=None), strict=True):
            if figure not in entry.undefined:
                yield figure, getattr(entry, figure), float(value)


def several_labels(random: np.random.Generator, tied: bool) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    shape = int(random.integers(1, 201)), int(random.integers(2, 13))
    chances = random.random(shape)
    truth = random.random(shape) < chances
    return truth, (np.round(chances, 1) if tied else chances).astype(np.float32)


def several_against_scikit_learn(
    truth: NDArray[np.bool_], table: NDArray[np.float32], report: MultiLabelReport
) -> Pairs:
    called = table > 0.5
    for average in ("micro", "macro", "weighted", "samples"):
        f1 = sk.f1_score(truth, called, average=average, zero_division=0)
        yield f"{average}_f1", getattr(report, f"{average}_f1"), f1
    yield "subset_accuracy", report.subset_accuracy, sk.accuracy_score(truth, called)
    yield "hamming_loss", report.hamming_loss, sk.hamming_loss(truth, called)
    if 0 < truth.mean() < 1:
        yield "micro_auroc", report.micro_auroc, sk.roc_auc_score(truth, table, average="micro")
    if all(truth.mean(axis=0) > 0) and all(truth.mean(axis=0) < 1):
        yield "macro_auroc", report.macro_auroc, sk.roc_auc_score(truth, table)
        yield "mean_average_precision", report.mean_average_precision, sk.average_precision_score(truth, table)
    for entry, column, scores in zip(report.per_label, truth.T, table.T, strict=True):
        yield "brier", entry.brier, sk.brier_score_loss(column, scores, pos_label=True)


def several_against_torchmetrics(
    truth: NDArray[np.bool_], table: NDArray[np.float32], report: MultiLabelReport
) -> Pairs:
    scores, targets, num_labels = torch.tensor(table), torch.tensor(truth.astype(np.int64)), table.shape[1]
    hamming = tm.multilabel_hamming_distance(scores, targets, num_labels, average="micro")
    yield "hamming_loss", report.hamming_loss, float(hamming)
    yield "micro_f1", report.micro_f1, float(tm.multilabel_f1_score(scores, targets, num_labels, average="micro"))
    yield "subset_accuracy", report.subset_accuracy, float(tm.multilabel_exact_match(scores, targets, num_labels))
    for index, entry in enumerate(report.per_label):
        error = tm.binary_calibration_error(scores[:, index], targets[:, index], n_bins=15)
        yield "expected_calibration_error", entry.expected_calibration_error, float(error)


def largest(differences: dict[str, float], pairs: Pairs) -> None:
    for figure, ours, theirs in pairs:
        if ours is None:
            raise SystemExit(f"{figure} has no value where the other gives {theirs}")
        differences[figure] = max(differences.get(figure, 0.0), abs(ours - theirs))


def parity(num_tables: int) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {
        name: {} for name in ("scikit-learn", "torchmetrics", "scikit-learn, labels", "torchmetrics, labels")
    }
    random = np.random.default_rng(0)
    for number in range(num_tables):
        predictions = single_label(random, tied=number % 2 == 1, absent=number % 3 == 2)
        report = classification_report(predictions, num_resamples=1)
        largest(found["scikit-learn"], against_scikit_learn(predictions, report))
        largest(found["torchmetrics"], against_torchmetrics(predictions, report))
        truth, table = several_labels(random, tied=number % 2 == 1)
        several = multilabel_report(tuple(map(str, range(table.shape[1]))), truth, table, num_resamples=1)
        largest(found["scikit-learn, labels"], several_against_scikit_learn(truth, table, several))
        largest(found["torchmetrics, labels"], several_against_torchmetrics(truth, table, several))
    return found


def seconds_of(work: Callable[[], object]) -> dict[str, float]:
    """The quicker of two runs, by the processor's time."""
    runs = []
    for _ in range(2):
        started, started_cpu = time.perf_counter(), time.process_time()
        work()
        runs.append((time.process_time() - started_cpu, time.perf_counter() - started))
    cpu, wall = min(runs)
    return {"cpu": round(cpu, 2), "wall": round(wall, 2)}


def speed(num_classes: int, num_images: int = 10_000) -> dict[str, Any]:
    random = np.random.default_rng(0)
    targets = random.integers(0, num_classes, num_images)
    logits = random.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += 2
    names = tuple(map(str, range(num_classes)))
    predictions = Predictions(names, softmax(logits), targets, tuple(map(str, range(num_images))))
    table = (1 / (1 + np.exp(2 - logits))).astype(np.float32)
    truth = random.random(table.shape) < table
    return {
        "images": num_images,
        "classes": num_classes,
        "one_label": seconds_of(lambda: classification_report(predictions)),
        "several_labels": seconds_of(lambda: multilabel_report(names, truth, table)),
    }


def coverage(num_positive: int, num_negative: int, shift: float, num_draws: int = 2000) -> dict[str, Any]:
    """Normal scores whose means lie `shift` standard deviations apart."""
    random, true = np.random.default_rng(0), float(norm.cdf(shift / np.sqrt(2)))
    member = np.arange(num_positive + num_negative) < num_positive
    held, plain_held = 0, 0
    for _ in range(num_draws):
        scores = SortedScores.of(random.normal(size=len(member)) + shift * member, member)
        interval, auroc = delong_interval(scores), scores.auroc()
        assert interval is not None
        assert auroc is not None
        held += interval[0] <= true <= interval[1]
        by_positive, by_negative = auroc.values[member] * num_positive, auroc.values[~member] * num_negative
        error = np.sqrt(by_positive.var(ddof=1) / num_positive + by_negative.var(ddof=1) / num_negative)
        plain_held += abs(auroc.figure - true) <= 1.96 * error
    return {
        "positives": num_positive,
        "negatives": num_negative,
        "true_auroc": round(true, 4),
        "held": held / num_draws,
        "held_by_plain_delong": int(plain_held) / num_draws,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=int, default=60)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # scikit-learn and torchmetrics warn of absent classes, which are meant here
    stolen = stolen_seconds()
    settings = [(10, 90, 2.0), (10, 90, 3.0), (5, 200, 1.5), (20, 1000, 2.5), (50, 50, 0.5), (200, 2000, 3.0)]
    result = {
        "tables": arguments.tables,
        "differences": parity(arguments.tables),
        "defined_otherwise": DEFINED_OTHERWISE,
        "seconds": [speed(10), speed(1000)],
        "coverage": [coverage(*setting) for setting in settings],
        "stolen_seconds": round(stolen_seconds() - stolen, 1),
        "hardware": hardware(),
        "versions": versions("convcraft", "numpy", "scikit-learn", "torchmetrics", "torch"),
    }
    write_result("metrics_parity", result)


if __name__ == "__main__":
    main()
