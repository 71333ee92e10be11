"""Losses of the NumPy engine against torch: every setting, its derivative, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scratch_parity import DIFFERENCES, FORWARD, GRADIENT, gap
from torch.nn import functional as F

from convcraft.scratch import losses
from convcraft.scratch.gradcheck import numeric_gradient

RNG = np.random.default_rng(0)
LOGITS = 3 * RNG.standard_normal((6, 5))
LABELS = RNG.integers(0, 5, 6)
WEIGHT = RNG.random(5) + 0.5
PROBABILITIES = RNG.dirichlet(np.ones(5), 6)
REDUCTIONS = ("mean", "sum", "none")


def as_tensors(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: torch.tensor(value) if isinstance(value, np.ndarray) else value for name, value in settings.items()}


def assert_same(name: str, criterion: losses.Loss, input: Any, target: Any, **settings: Any) -> None:
    """Loss and derivative of ours are torch's; for "none" the derivative of the sum."""
    tensor = torch.tensor(input, requires_grad=True)
    expected = getattr(F, name)(tensor, torch.tensor(target), **as_tensors(settings))
    expected.sum().backward()
    got = criterion(input, target)
    assert isinstance(got, np.ndarray)
    assert got.dtype == input.dtype
    assert gap(got, expected) <= FORWARD * max(1.0, float(np.abs(got).max()))
    assert gap(criterion.backward(), tensor.grad) <= GRADIENT
    assert gap(getattr(losses, name)(input, target, **settings), expected) <= FORWARD * max(
        1.0, float(np.abs(got).max())
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(
    ("weight", "smoothing", "ignored"), list(itertools.product([None, WEIGHT], [0.0, 0.1, 1.0], [-100, 2]))
)
def test_cross_entropy_of_class_numbers(reduction: str, weight: Any, smoothing: float, ignored: int) -> None:
    chosen = {"weight": weight, "label_smoothing": smoothing, "ignore_index": ignored, "reduction": reduction}
    labels = np.array([0, 2, 4, 2, 1, 3])
    assert_same("cross_entropy", losses.CrossEntropyLoss(**chosen), LOGITS, labels, **chosen)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize(("weight", "smoothing"), list(itertools.product([None, WEIGHT], [0.0, 0.1])))
def test_cross_entropy_of_probabilities(reduction: str, weight: Any, smoothing: float) -> None:
    chosen = {"weight": weight, "label_smoothing": smoothing, "reduction": reduction}
    assert_same("cross_entropy", losses.CrossEntropyLoss(**chosen), LOGITS, PROBABILITIES, **chosen)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_nll(reduction: str, weight: Any, ignored: int) -> None:
    chosen = {"weight": weight, "ignore_index": ignored, "reduction": reduction}
    assert_same("nll_loss", losses.NLLLoss(**chosen), LOGITS, LABELS, **chosen)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("pos_weight", [None, 2 * WEIGHT])
def test_binary_cross_entropy(reduction: str, weight: Any, pos_weight: Any) -> None:
    chosen = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    criterion = losses.BCEWithLogitsLoss(**chosen)
    assert_same("binary_cross_entropy_with_logits", criterion, LOGITS, PROBABILITIES, **chosen)
    extreme = np.array([[1000.0, -1000.0, 0.0, 50.0, -50.0]] * 6)
    assert_same("binary_cross_entropy_with_logits", criterion, extreme, PROBABILITIES, **chosen)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_mean_squared_error(reduction: str) -> None:
    assert_same("mse_loss", losses.MSELoss(reduction), LOGITS, PROBABILITIES, reduction=reduction)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_image_without_a_batch_axis(reduction: str) -> None:
    label = np.array(3)
    for name, criterion in (
        ("cross_entropy", losses.CrossEntropyLoss(reduction=reduction)),
        ("nll_loss", losses.NLLLoss(reduction=reduction)),
    ):
        assert_same(name, criterion, LOGITS[0], label, reduction=reduction)
    assert_same(
        "cross_entropy", losses.CrossEntropyLoss(reduction=reduction), LOGITS[0], PROBABILITIES[0], reduction=reduction
    )


@pytest.mark.parametrize("scale", [1.0, 1e3, 1e6])
def test_logits_of_any_size(scale: float) -> None:
    assert_same("cross_entropy", losses.CrossEntropyLoss(), scale * LOGITS, LABELS)


def test_a_masked_class_may_have_a_logit_of_minus_infinity() -> None:
    masked = LOGITS.copy()
    masked[:, 1] = -np.inf
    labels = np.array([0, 2, 4, 2, 0, 3])
    assert np.isfinite(losses.cross_entropy(masked, labels))
    assert_same("cross_entropy", losses.CrossEntropyLoss(), masked, labels)
    assert_same("nll_loss", losses.NLLLoss(), masked, labels)


def test_of_probabilities_a_masked_logit_makes_nan_as_in_torch() -> None:
    masked = LOGITS.copy()
    masked[:, 1] = -np.inf
    one_hot = losses.one_hot(np.array([0, 2, 4, 2, 0, 3]), 5)
    with np.errstate(invalid="ignore"):
        assert np.isnan(losses.cross_entropy(masked, one_hot))
    assert torch.isnan(F.cross_entropy(torch.tensor(masked), torch.tensor(one_hot)))


def test_a_batch_in_which_nothing_counts_has_no_mean() -> None:
    nothing = np.full(6, -100)
    with np.errstate(invalid="ignore"):
        assert np.isnan(losses.cross_entropy(LOGITS, nothing))
    assert losses.cross_entropy(LOGITS, nothing, reduction="sum") == 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_stays(dtype: Any) -> None:
    logits, ones = LOGITS.astype(dtype), PROBABILITIES.astype(dtype)
    for criterion, target in (
        (losses.CrossEntropyLoss(WEIGHT.astype(dtype), label_smoothing=0.1), LABELS),
        (losses.CrossEntropyLoss(), ones),
        (losses.NLLLoss(), LABELS),
        (losses.BCEWithLogitsLoss(pos_weight=WEIGHT.astype(dtype)), ones),
        (losses.MSELoss(), ones),
    ):
        for reduction in REDUCTIONS:
            if isinstance(criterion, losses.MSELoss):
                criterion.reduction = reduction
            else:
                criterion.settings["reduction"] = reduction
            assert criterion(logits, target).dtype == dtype
            assert criterion.backward().dtype == dtype


@given(
    logits=st.lists(st.floats(-30, 30), min_size=8, max_size=8),
    labels=st.lists(st.integers(0, 3), min_size=2, max_size=2),
    smoothing=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_derivative_of_cross_entropy_by_differences(logits: list[float], labels: list[int], smoothing: float) -> None:
    input = np.array(logits).reshape(2, 4)
    criterion = losses.CrossEntropyLoss(label_smoothing=smoothing)

    def loss() -> float:
        return float(criterion(input, np.array(labels)))

    loss()
    assert np.abs(criterion.backward() - numeric_gradient(loss, input)).max() <= DIFFERENCES


def test_one_hot_targets_and_class_numbers_agree() -> None:
    one_hot = losses.one_hot(LABELS, 5)
    assert np.array_equal(one_hot.sum(axis=1), np.ones(6))
    assert abs(losses.cross_entropy(LOGITS, one_hot) - losses.cross_entropy(LOGITS, LABELS)) <= 1e-14


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: losses.cross_entropy(LOGITS, LABELS + 5), "expected 0 to 4"),
        (lambda: losses.cross_entropy(LOGITS, LABELS[:4]), "one class number per image"),
        (lambda: losses.cross_entropy(LOGITS, LABELS[:, None]), "target [6, 1] for input [6, 5]"),
        (lambda: losses.cross_entropy(LOGITS, PROBABILITIES[:, :3]), "the input's shape"),
        (lambda: losses.cross_entropy(LOGITS, PROBABILITIES.astype(np.float32)), "one dtype for all"),
        (lambda: losses.cross_entropy(LOGITS, PROBABILITIES, ignore_index=1), "ignore_index=1 with probabilities"),
        (lambda: losses.cross_entropy(LOGITS, LABELS == 1), "target is bool"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, weight=WEIGHT[:3]), "weight [3]"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, label_smoothing=1.5), "label_smoothing=1.5"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, reduction="average"), "reduction='average'"),
        (lambda: losses.cross_entropy(LOGITS, LABELS, size_average=True), "torch retired both"),  # type: ignore[arg-type]
        (lambda: losses.cross_entropy(LOGITS[None, None], LABELS), "logits [B, K] or [K]"),
        (lambda: losses.nll_loss(LOGITS, PROBABILITIES), "floating targets"),
        (lambda: losses.mse_loss(LOGITS, PROBABILITIES[:, :1]), "the input's shape"),
        (lambda: losses.mse_loss(LOGITS, PROBABILITIES, weight=WEIGHT), "a weight"),  # type: ignore[arg-type]
        (lambda: losses.binary_cross_entropy_with_logits(LOGITS, LABELS), "target is int64"),
        (lambda: losses.binary_cross_entropy_with_logits(LOGITS[0], PROBABILITIES[0], LOGITS), "weight [6, 5]"),
        (
            lambda: losses.binary_cross_entropy_with_logits(LOGITS[0], PROBABILITIES[0], pos_weight=LOGITS),
            "pos_weight [6, 5]; expected a shape that broadcasts to [5]",
        ),
        (lambda: losses.binary_cross_entropy_with_logits(LOGITS, PROBABILITIES, WEIGHT[:3]), "weight [3]"),
    ],
)
def test_refusals(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        call()
    assert words in str(refused.value)
