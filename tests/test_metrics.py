"""Every figure against scikit-learn or torchmetrics, and class tables that must not shift."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sk
from torchmetrics.functional.classification import multiclass_calibration_error

from convcraft.errors import UserError
from convcraft.evaluation.metrics import calibration, classification_report, most_confused, top_losses
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.statistics import wilson_interval


def random_predictions(num_images: int, num_classes: int, seed: int = 0, absent: tuple[int, ...] = ()) -> Predictions:
    """Rather good predictions of images in which the classes of `absent` do not occur."""
    random = np.random.default_rng(seed)
    present = [index for index in range(num_classes) if index not in absent]
    targets = random.choice(present, num_images)
    logits = random.normal(size=(num_images, num_classes))
    logits[np.arange(num_images), targets] += 2
    classes = tuple(f"class {index}" for index in range(num_classes))
    return Predictions(classes, softmax(logits), targets, tuple(f"{row}.png" for row in range(num_images)))


def certain(targets: list[int], labels: list[int], num_classes: int) -> Predictions:
    probabilities = np.eye(num_classes, dtype=np.float32)[labels]
    classes = tuple("abcdefgh"[:num_classes])
    return Predictions(classes, probabilities, np.array(targets), tuple(map(str, range(len(targets)))))


def column(predictions: Predictions, name: str) -> list[float]:
    return [getattr(entry, name) for entry in classification_report(predictions, num_resamples=10).per_class]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), num_images=st.integers(1, 60), num_classes=st.integers(2, 9))
def test_per_class_figures_equal_scikit_learn(seed: int, num_images: int, num_classes: int) -> None:
    predictions = random_predictions(num_images, num_classes, seed, absent=(0,))
    expected = sk.precision_recall_fscore_support(
        predictions.targets, predictions.labels, labels=range(num_classes), zero_division=0
    )
    for name, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert column(predictions, name) == pytest.approx(values.tolist(), abs=0)


def test_overall_figures_equal_scikit_learn() -> None:
    predictions = random_predictions(500, 7)
    targets, labels, table = predictions.targets, predictions.labels, predictions.probabilities.astype(np.float64)
    assert targets is not None
    table /= table.sum(axis=1, keepdims=True)
    report = classification_report(predictions, num_resamples=100)
    assert report.accuracy == sk.accuracy_score(targets, labels)
    assert report.interval == wilson_interval(report.num_correct, 500)
    assert report.balanced_accuracy == pytest.approx(sk.balanced_accuracy_score(targets, labels))
    assert report.macro_f1 == pytest.approx(sk.f1_score(targets, labels, average="macro"))
    assert report.weighted_f1 == pytest.approx(sk.f1_score(targets, labels, average="weighted"))
    assert report.log_loss == pytest.approx(sk.log_loss(targets, table), rel=1e-5)
    assert (report.confusion == sk.confusion_matrix(targets, labels)).all()
    assert report.confusion.dtype == np.int64
    assert set(report.top_k) == {2, 3, 5}
    for k, share in report.top_k.items():
        assert share == pytest.approx(sk.top_k_accuracy_score(targets, table, k=k))
    low, high = report.macro_f1_interval
    assert low < report.macro_f1 < high


def test_calibration_error_equals_torchmetrics() -> None:
    predictions = random_predictions(800, 5)
    expected = multiclass_calibration_error(
        torch.tensor(predictions.probabilities), torch.tensor(predictions.targets), num_classes=5, n_bins=15
    )
    assert classification_report(predictions, 10).calibration.expected_error == pytest.approx(float(expected), abs=1e-5)


def test_calibration_bins_hold_each_image_once_also_at_the_edges() -> None:
    confidence = np.array([0.0, 0.25, 0.26, 0.5, 1.0], dtype=np.float32)  # bins (low, high], the first with its 0
    bins = calibration(confidence, np.array([False, True, True, False, True]), num_bins=4)
    assert bins.counts.tolist() == [2, 2, 0, 1]
    assert bins.accuracy.tolist() == [0.5, 0.5, 0.0, 1.0]
    assert bins.mean_confidence == pytest.approx([0.125, 0.38, 0.0, 1.0])


@pytest.mark.parametrize("absent", [(0,), (3,), (6,), (0, 1, 5)])
def test_absent_classes_shift_nothing(absent: tuple[int, ...]) -> None:
    """Each present class keeps its name, row and figures when others do not occur among the images."""
    whole = random_predictions(700, 7)
    assert whole.targets is not None
    kept = ~np.isin(whole.targets, absent)
    names = tuple(np.array(whole.names)[kept])
    part = Predictions(whole.classes, whole.probabilities[kept], whole.targets[kept], names)
    report, full = classification_report(part, 10), classification_report(whole, 10)
    assert report.confusion.shape == (7, 7)
    for index in range(7):
        entry = report.per_class[index]
        assert entry.name == f"class {index}"
        if index in absent:
            assert entry.support == 0
            assert entry.recall == 0.0
            assert "recall" in entry.undefined
            assert entry.recall_interval is None
        else:
            assert entry.recall == full.per_class[index].recall
            assert (report.confusion[index] == full.confusion[index]).all()
    assert report.absent_classes == tuple(f"class {index}" for index in absent)
    present = [entry.recall for index, entry in enumerate(report.per_class) if index not in absent]
    assert report.balanced_accuracy == pytest.approx(np.mean(present))


def test_what_cannot_be_measured_is_zero_and_flagged() -> None:
    # a: fine; b: occurs, never called; c: never occurs, called once; d: neither
    report = classification_report(certain([0, 0, 1], [0, 0, 2], 4), 10)
    assert [entry.undefined for entry in report.per_class] == [
        (),
        ("precision",),
        ("recall", "auroc", "average_precision"),
        ("precision", "recall", "f1", "auroc", "average_precision"),
    ]
    assert [entry.auroc is None for entry in report.per_class] == [False, False, True, True]
    assert [entry.f1 for entry in report.per_class] == [1.0, 0.0, 0.0, 0.0]
    assert report.confusion.tolist() == [[2, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_two_classes_have_no_top_2() -> None:
    assert classification_report(certain([0, 1], [0, 0], 2), 10).top_k == {}


def test_equal_probabilities_count_once() -> None:
    """A model that knows nothing names the first class: top-2 must hold two classes, not all of them."""
    table = np.full((3, 3), 1 / 3, dtype=np.float32)
    report = classification_report(Predictions(("a", "b", "c"), table, np.array([0, 1, 2]), ("x", "y", "z")), 10)
    assert report.accuracy == pytest.approx(1 / 3)
    assert report.top_k == {2: pytest.approx(2 / 3)}


def test_the_report_goes_into_json_with_the_promised_keys() -> None:
    values = json.loads(json.dumps(classification_report(random_predictions(40, 6), 10).to_dict(), allow_nan=False))
    assert {"accuracy", "interval", "per_class", "confusion", "top_k"} <= set(values)
    assert [entry["class"] for entry in values["per_class"]] == [f"class {index}" for index in range(6)]


def test_a_certain_mistake_has_a_finite_loss() -> None:
    report = classification_report(certain([0], [1], 2), 10)
    assert 80 < report.log_loss < 100


def test_unlabelled_and_empty_predictions_are_refused() -> None:
    unlabelled = Predictions(("a", "b"), np.array([[0.5, 0.5]], dtype=np.float32), None, ("x",))
    empty = Predictions(("a", "b"), np.zeros((0, 2), dtype=np.float32), np.zeros(0, dtype=np.int64), ())
    for predictions in (unlabelled, empty):
        with pytest.raises(UserError):
            classification_report(predictions)


def test_top_losses_are_the_worst_mistakes_only() -> None:
    table = np.array([[0.9, 0.1], [0.4, 0.6], [0.01, 0.99], [0.45, 0.55], [0.51, 0.49]], dtype=np.float32)
    predictions = Predictions(("a", "b"), table, np.array([0, 0, 0, 1, 1]), ("p", "q", "r", "s", "t"))
    worst = top_losses(predictions, 10)
    assert [mistake.name for mistake in worst] == ["r", "q", "t"]
    first = worst[0]
    assert (first.index, first.target, first.label) == (2, 0, 1)
    assert (first.probability, first.target_probability) == (pytest.approx(0.99), pytest.approx(0.01))
    assert first.loss == pytest.approx(-np.log(0.01), rel=1e-5)
    assert [mistake.name for mistake in top_losses(predictions, 1)] == ["r"]
    assert top_losses(predictions, 0) == []


def test_most_confused_reads_rows_as_true_classes() -> None:
    matrix: NDArray[np.int64] = np.array([[50, 0, 7], [2, 60, 0], [0, 9, 70]])
    assert most_confused(matrix, 2) == [(2, 1, 9), (0, 2, 7)]
    assert most_confused(matrix, 100) == [(2, 1, 9), (0, 2, 7), (1, 0, 2)]
    assert matrix[2, 2] == 70
