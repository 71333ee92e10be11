"""Every figure of the reports equals scikit-learn's to 1e-6, on random and on degenerate inputs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk

from convcraft.errors import UserError
from convcraft.evaluation.metrics import classification_report
from convcraft.evaluation.multilabel import multilabel_report
from convcraft.evaluation.predictions import Predictions, softmax
from convcraft.evaluation.ranking import SortedScores, delong_interval, micro_auroc, rank_classes
from convcraft.statistics import bootstrap_interval

NEAR = 1e-6
Table = NDArray[np.float32]


def labelled(table: Table, targets: NDArray[np.int64]) -> Predictions:
    classes = tuple(f"class {index}" for index in range(table.shape[1]))
    return Predictions(classes, table, targets, tuple(map(str, range(len(table)))))


def single_label_cases() -> Iterator[tuple[str, Predictions]]:
    for seed in range(12):
        random = np.random.default_rng(seed)
        num_images, num_classes = int(random.integers(1, 80)), int(random.integers(2, 9))
        targets = random.integers(0, num_classes, num_images)
        logits = random.normal(size=(num_images, num_classes)) * random.choice([0.3, 2.0])
        logits[np.arange(num_images), targets] += random.uniform(0, 3)
        yield f"random {seed}", labelled(softmax(logits), targets)
        coarse = random.integers(1, 4, (num_images, num_classes)).astype(np.float32)
        yield f"ties {seed}", labelled(coarse / coarse.sum(axis=1, keepdims=True), targets)
    random = np.random.default_rng(99)
    table, targets = softmax(random.normal(size=(40, 4))), random.integers(0, 3, 40)
    yield "one class absent", labelled(table, targets)
    yield "all one class", labelled(table, np.full(40, 2))
    three = table[:, :3] / table[:, :3].sum(axis=1, keepdims=True)
    yield "a class neither present nor called", labelled(np.insert(three, 3, 0, axis=1), targets)
    yield "all equal", labelled(np.full((9, 3), 1 / 3, np.float32), np.arange(9) % 3)
    yield "two classes", labelled(softmax(random.normal(size=(50, 2))), random.integers(0, 2, 50))
    yield "one image", labelled(table[:1], targets[:1])
    yield "perfect", labelled(np.eye(3, dtype=np.float32)[np.arange(12) % 3], np.arange(12) % 3)
    yield "all wrong", labelled(np.eye(3, dtype=np.float32)[(np.arange(12) + 1) % 3], np.arange(12) % 3)


SINGLE = dict(single_label_cases())


def quiet_mean(values: list[float]) -> float | None:
    return float(np.mean(values)) if values else None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SINGLE)
def test_single_label_figures_equal_scikit_learn(case: str) -> None:
    predictions = SINGLE[case]
    table, truth, called = predictions.probabilities, predictions.targets, predictions.labels
    assert truth is not None
    indices = range(table.shape[1])
    report = classification_report(predictions, num_resamples=10)
    members = truth[:, None] == np.arange(table.shape[1])
    aurocs = [
        sk.roc_auc_score(member, column) if 0 < member.sum() < len(member) else None
        for member, column in zip(members.T, table.T, strict=True)
    ]
    precisions = [
        sk.average_precision_score(member, column) if member.any() else None
        for member, column in zip(members.T, table.T, strict=True)
    ]
    squares = sk.brier_score_loss(truth, table, labels=list(indices), scale_by_half=False)
    expected = {
        "accuracy": sk.accuracy_score(truth, called),
        "balanced_accuracy": sk.balanced_accuracy_score(truth, called),
        "micro_f1": sk.f1_score(truth, called, labels=indices, average="micro"),
        "macro_precision": sk.precision_score(truth, called, labels=indices, average="macro", zero_division=0),
        "macro_recall": sk.recall_score(truth, called, labels=indices, average="macro", zero_division=0),
        "macro_f1": sk.f1_score(truth, called, labels=indices, average="macro", zero_division=0),
        "weighted_f1": sk.f1_score(truth, called, labels=indices, average="weighted", zero_division=0),
        "auroc": quiet_mean([value for value in aurocs if value is not None]),
        "average_precision": quiet_mean([value for value in precisions if value is not None]),
        "brier": squares,
    }
    for name, value in expected.items():
        assert getattr(report, name) == (None if value is None else pytest.approx(value, abs=NEAR)), name
    for figure, values in (("auroc", aurocs), ("average_precision", precisions)):
        for entry, value in zip(report.per_class, values, strict=True):
            assert getattr(entry, figure) == (None if value is None else pytest.approx(value, abs=NEAR))
            assert (figure in entry.undefined) == (value is None)
    assert report.undefined == (() if report.auroc is not None else ("auroc",))
    for k, share in report.top_k.items():
        of_target = np.sort(table, axis=1)
        if (np.diff(of_target, axis=1) > 0).all():  # scikit-learn orders ties otherwise
            assert share == pytest.approx(sk.top_k_accuracy_score(truth, table, k=k, labels=indices), abs=NEAR)
    if table[np.arange(len(truth)), truth].min() > 1e-15:  # below, scikit-learn cuts: see proper_scores
        wide = table.astype(np.float64)
        wide /= wide.sum(axis=1, keepdims=True)
        assert report.log_loss == pytest.approx(sk.log_loss(truth, wide, labels=list(indices)), abs=NEAR)


def test_two_classes_are_the_binary_figures() -> None:
    predictions = SINGLE["two classes"]
    report, positive = classification_report(predictions, 10), predictions.probabilities[:, 1]
    assert report.auroc == pytest.approx(sk.roc_auc_score(predictions.targets, positive), abs=NEAR)
    assert report.per_class[1].average_precision == pytest.approx(
        sk.average_precision_score(predictions.targets, positive), abs=NEAR
    )
    assert report.brier / 2 == pytest.approx(sk.brier_score_loss(predictions.targets, positive), abs=NEAR)


def test_an_impossible_class_costs_87_nats_where_scikit_learn_stops_at_36() -> None:
    predictions = SINGLE["all wrong"]
    assert classification_report(predictions, 10).log_loss == pytest.approx(-np.log(np.finfo(np.float32).tiny))
    assert sk.log_loss(predictions.targets, predictions.probabilities.astype(float)) == pytest.approx(36.04, abs=0.01)


def multi_label_cases() -> Iterator[tuple[str, tuple[NDArray[np.bool_], Table]]]:
    for seed in range(12):
        random = np.random.default_rng(seed)
        shape = int(random.integers(1, 60)), int(random.integers(1, 7))
        logits = random.normal(size=shape)
        truth = random.random(shape) < 1 / (1 + np.exp(-logits))
        yield f"random {seed}", (truth, (1 / (1 + np.exp(-logits))).astype(np.float32))
        yield f"ties {seed}", (truth, random.choice(np.array([0.2, 0.5, 0.75], np.float32), shape))
    table = np.random.default_rng(5).uniform(0.1, 0.9, (20, 3)).astype(np.float32)
    yield "a label never carried", (np.column_stack([table[:, :2] > 0.4, np.zeros(20, bool)]), table)
    yield "a label always carried", (np.column_stack([table[:, :2] > 0.4, np.ones(20, bool)]), table)
    yield "no labels at all", (np.zeros((20, 3), bool), table)
    yield "all labels", (np.ones((20, 3), bool), table)
    yield "never called", (table > 0.3, table * 0.5)
    yield "perfect", (table > 0.5, (table > 0.5).astype(np.float32))
    yield "all wrong", (table > 0.5, (table <= 0.5).astype(np.float32))
    yield "one image", (table[:1] > 0.5, table[:1])


MULTI = dict(multi_label_cases())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", MULTI)
def test_multi_label_figures_equal_scikit_learn(case: str) -> None:
    truth, table = MULTI[case]
    labels = tuple(f"label {index}" for index in range(table.shape[1]))
    report = multilabel_report(labels, truth, table, num_resamples=10)
    called = table > 0.5
    # scikit-learn reads a table of one column as one label per image: figures over samples and labels are then by hand
    for average in ("macro", "micro", "weighted", "samples"):
        two = (np.column_stack([truth, truth]), np.column_stack([called, called]))  # doubling changes no mean
        precision, recall, f1, _ = sk.precision_recall_fscore_support(*two, average=average, zero_division=0)
        assert getattr(report, f"{average}_f1") == pytest.approx(f1, abs=NEAR), average
        if average in ("macro", "micro"):
            assert getattr(report, f"{average}_precision") == pytest.approx(precision, abs=NEAR)
            assert getattr(report, f"{average}_recall") == pytest.approx(recall, abs=NEAR)
    assert report.subset_accuracy == pytest.approx(float((truth == called).all(axis=1).mean()), abs=NEAR)
    assert report.hamming_loss == pytest.approx(sk.hamming_loss(truth.ravel(), called.ravel()), abs=NEAR)
    pairs = truth.ravel(), table.ravel()
    expected = sk.roc_auc_score(*pairs) if 0 < truth.mean() < 1 else None
    assert report.micro_auroc == (None if expected is None else pytest.approx(expected, abs=NEAR))
    assert ("micro_auroc" in report.undefined) == (expected is None)
    aurocs, precisions = [], []
    for column, scores, entry in zip(truth.T, table.T, report.per_label, strict=True):
        wanted = sk.precision_recall_fscore_support(column, scores > 0.5, average="binary", zero_division=0)
        assert (entry.precision, entry.recall, entry.f1) == pytest.approx(wanted[:3], abs=NEAR)
        assert entry.brier == pytest.approx(sk.brier_score_loss(column, scores, pos_label=True), abs=NEAR)
        if "wrong" not in case:
            wide = scores.astype(np.float64)
            assert entry.log_loss == pytest.approx(sk.log_loss(column, wide, labels=[False, True]), abs=NEAR)
        if column.any():
            precisions.append(sk.average_precision_score(column, scores))
            assert entry.average_precision == pytest.approx(precisions[-1], abs=NEAR)
        else:
            assert entry.average_precision is None
        if 0 < column.mean() < 1:
            aurocs.append(sk.roc_auc_score(column, scores))
            assert entry.auroc == pytest.approx(aurocs[-1], abs=NEAR)
        else:
            assert entry.auroc is None
    for figure, values in (("macro_auroc", aurocs), ("mean_average_precision", precisions)):
        mean = quiet_mean(values)
        assert getattr(report, figure) == (None if mean is None else pytest.approx(mean, abs=NEAR))
        assert (figure in report.undefined) == (mean is None)
    json.dumps(report.to_dict(), allow_nan=False)


@pytest.mark.parametrize("case", [*SINGLE])
def test_every_interval_holds_its_figure(case: str) -> None:
    values = classification_report(SINGLE[case], num_resamples=200).to_dict()
    for holder in (values, *values["per_class"]):
        for name, interval in holder.items():
            if name.endswith("_interval"):
                figure = holder[name.removesuffix("_interval")]
                assert (interval is None) == (figure is None) or (name, interval) == ("recall_interval", None)
                if interval is not None and "tie" not in case and len(SINGLE[case]) > 30:
                    assert interval[0] - NEAR <= figure <= interval[1] + NEAR, name


def test_the_linear_bootstrap_agrees_with_the_full_one() -> None:
    random = np.random.default_rng(1)
    targets = random.integers(0, 3, 240)
    logits = random.normal(size=(240, 3))
    logits[np.arange(240), targets] += 1
    scores, members = softmax(logits), targets[:, None] == np.arange(3)
    ranking = rank_classes(scores, members, num_resamples=2000)

    def again(figure: str) -> tuple[float, float]:
        return bootstrap_interval(
            lambda rows: getattr(rank_classes(scores[rows], members[rows], 1), figure), 240, num_resamples=400
        )

    for figure in ("auroc", "average_precision"):
        linear, full = getattr(ranking, f"{figure}_interval"), again(figure)
        width = full[1] - full[0]
        assert linear == pytest.approx(full, abs=0.12 * width + 0.002), figure


def test_multi_label_intervals_agree_with_the_full_bootstrap() -> None:
    random = np.random.default_rng(6)
    table = random.random((300, 3)).astype(np.float32)
    truth = random.random((300, 3)) < table
    report = multilabel_report(("a", "b", "c"), truth, table, num_resamples=2000)
    called = table > 0.5
    for average in ("macro", "weighted"):
        full = bootstrap_interval(
            lambda rows, average=average: float(  # type: ignore[misc]
                sk.f1_score(truth[rows], called[rows], average=average, zero_division=0)
            ),
            len(table),
            num_resamples=300,
        )
        linear = getattr(report, f"{average}_f1_interval")
        assert linear == pytest.approx(full, abs=0.15 * (full[1] - full[0])), average


def test_delong_variance_is_that_of_the_definition() -> None:
    """Against the double loop over pairs, with one positive and one negative at chance counted in."""
    random = np.random.default_rng(4)
    member, scores = random.random(30) < 0.4, random.integers(0, 6, 30) / 6
    wins = (scores[member][:, None] > scores[~member]) + 0.5 * (scores[member][:, None] == scores[~member])
    by_positive, by_negative = np.append(wins.mean(axis=1), 0.5), np.append(wins.mean(axis=0), 0.5)
    error = np.sqrt(by_positive.var(ddof=1) / len(by_positive) + by_negative.var(ddof=1) / len(by_negative))
    interval = delong_interval(SortedScores.of(scores, member))
    assert interval is not None
    assert (interval[1] - interval[0]) / 2 == pytest.approx(1.959964 * error, rel=1e-5)


@pytest.mark.parametrize(("num_positive", "num_negative", "shift"), [(10, 90, 2.0), (15, 300, 1.0), (40, 40, 0.3)])
def test_delong_interval_covers_the_true_auroc(num_positive: int, num_negative: int, shift: float) -> None:
    """Normal scores: the true AUROC is Phi(shift / sqrt 2). 600 draws: 95 % within 3 standard errors of 0.9 points."""
    from scipy.stats import norm

    random, true = np.random.default_rng(0), norm.cdf(shift / np.sqrt(2))
    member = np.arange(num_positive + num_negative) < num_positive
    covered = 0
    for _ in range(600):
        interval = delong_interval(SortedScores.of(random.normal(size=len(member)) + shift * member, member))
        assert interval is not None
        covered += interval[0] <= true <= interval[1]
    assert 0.92 <= covered / 600 <= 0.99


def test_a_perfect_ranking_of_few_images_is_not_called_certain() -> None:
    scores = SortedScores.of(np.arange(120) / 120, np.arange(120) >= 100)
    interval = delong_interval(scores)
    assert interval is not None
    assert interval[0] == pytest.approx(0.93, abs=0.01)
    assert interval[1] == 1.0


def test_what_cannot_be_ranked_or_judged_is_refused() -> None:
    good, member = np.array([[0.2, 0.8]]), np.array([[True, False]])
    for scores, positive in (
        (np.array([[np.nan, 0.5]]), member),
        (good, member[:, :1]),
        (good[:0], member[:0]),
        (good, member.astype(int)),
    ):
        with pytest.raises(UserError):
            rank_classes(scores, positive)
    for targets, table in (
        (np.array([[0.5, 1]]), good),
        (np.array([[np.nan, 1]]), good),
        (member, good * 2),
        (member, np.array([[np.nan, 0.5]])),
        (member[:0], good[:0]),
    ):
        with pytest.raises(UserError):
            multilabel_report(("a", "b"), targets, table)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing undefined may warn or divide by zero
        assert micro_auroc(good, np.array([[True, True]])) == (None, None)
