"""Losses: how wrong the outputs are, as one number, and its derivative, with which backpropagation begins.

The functions have torch's names and defaults. The classes hold what backward needs:

    loss = criterion(logits, targets)
    network.backward(criterion.backward())
"""

from __future__ import annotations

from typing import Any

import numpy as np

from convcraft.scratch.activations import log_softmax, sigmoid
from convcraft.scratch.checks import Array, check_floating, refuse

REDUCTIONS = ("mean", "sum", "none")


def cross_entropy(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """-sum over k of p_k log softmax(input)_k, where p is the target: how surprised the network is by the truth.

    Args:
        input: logits [B, K] or [K], not probabilities: the softmax is inside. A softmax before this loss is a mistake
            that keeps it above 0.31 (2 classes) or 1.46 (10 classes) for ever.
        target: class numbers, integers [B] or a single one; or probabilities, of input's shape and dtype.
        weight: [K], what a mistake in each class costs.
        size_average, reduce: torch's old spellings of reduction; only None.
        ignore_index: images of this class number count for nothing.
        reduction: "mean" (over the weights of the true classes; of probabilities, over the images), "sum" or "none".
        label_smoothing: e in 0..1; the target becomes (1 - e) target + e / K. Szegedy et al. 2016, section 7.

    Returns:
        a scalar array, or [B] with "none".

    Raises:
        ValueError: class numbers outside 0..K-1, shapes that do not fit, more axes than [B, K].
    """
    _refuse_old(size_average, reduce)
    _check_reduction(reduction)
    shares, divisor = _shares(input, target, weight, ignore_index, label_smoothing)
    log_probabilities = log_softmax(input, -1)
    if np.issubdtype(np.asarray(target).dtype, np.floating):
        return _reduced(-(shares * log_probabilities).sum(axis=-1), reduction, divisor)
    return _reduced(_surprise(shares, log_probabilities), reduction, divisor)


def cross_entropy_backward(
    input: Array,
    target: Array,
    weight: Array | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Array:
    """dL/d(input), shape of input; for "none" that of the sum.

    L = -sum over k of a_k log s_k with s = softmax(z) and log s_k = z_k - log(sum of exp z), so
        dL/dz_j = s_j (sum over k of a_k) - a_j,
    which for a plain class number is softmax minus one-hot: what was said minus what is true.
    """
    shares, divisor = _shares(input, target, weight, ignore_index, label_smoothing)
    gradient = np.exp(log_softmax(input, -1)) * shares.sum(axis=-1, keepdims=True) - shares
    return gradient / divisor if reduction == "mean" else gradient


def nll_loss(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: None = None,
    ignore_index: int = -100,
    reduce: None = None,
    reduction: str = "mean",
) -> Array:
    """-input[target]: the loss of log-probabilities. Of log_softmax(logits) it is the cross-entropy of the logits.

    Args and returns as for `cross_entropy`; target is class numbers.
    """
    _refuse_old(size_average, reduce)
    _check_reduction(reduction)
    _check_class_numbers(target)
    shares, divisor = _shares(input, target, weight, ignore_index, 0.0)
    return _reduced(_surprise(shares, input), reduction, divisor)


def nll_loss_backward(
    input: Array, target: Array, weight: Array | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Array:
    """dL/d(input) = -1 (times weight, over the divisor) at the true class, 0 elsewhere."""
    shares, divisor = _shares(input, target, weight, ignore_index, 0.0)
    return -shares / divisor if reduction == "mean" else -shares


def binary_cross_entropy_with_logits(
    input: Array,
    target: Array,
    weight: Array | None = None,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    """-(p target log s + (1 - target) log(1 - s)) with s = sigmoid(input) and p = pos_weight: yes-or-no questions.

    With log s = -log(1 + exp(-z)) and log(1 - s) = -z - log(1 + exp(-z)) nothing overflows.

    Args:
        input: logits, any shape.
        target: 0..1, shape and dtype of input.
        weight, pos_weight: factors that broadcast to input; pos_weight multiplies the "yes" part.
        reduction: "mean" over all numbers, "sum" or "none".
    """
    _refuse_old(size_average, reduce)
    _check_reduction(reduction)
    _check_same(input, target, weight=weight, pos_weight=pos_weight)
    positive = 1 if pos_weight is None else pos_weight
    softplus = np.logaddexp(np.zeros((), input.dtype), -input)  # log(1 + exp(-z))
    losses = (1 - target) * input + (1 + (positive - 1) * target) * softplus
    return _reduced(losses if weight is None else losses * weight, reduction, input.dtype.type(input.size))


def binary_cross_entropy_with_logits_backward(
    input: Array,
    target: Array,
    weight: Array | None = None,
    reduction: str = "mean",
    pos_weight: Array | None = None,
) -> Array:
    """dL/dz = (1 - target) s - p target (1 - s); without p that is s - target."""
    positive = 1 if pos_weight is None else pos_weight
    probability = sigmoid(input)
    gradient = (1 - target) * probability - positive * target * (1 - probability)
    gradient = gradient if weight is None else gradient * weight
    return gradient / input.dtype.type(input.size) if reduction == "mean" else gradient


def mse_loss(
    input: Array,
    target: Array,
    size_average: None = None,
    reduce: None = None,
    reduction: str = "mean",
    weight: None = None,
) -> Array:
    """(input - target)^2; "mean" is over all numbers. Shapes must be equal: torch only warns, and broadcasts."""
    _refuse_old(size_average, reduce)
    if weight is not None:
        raise refuse("a weight", "None (not supported)", 'Multiply the losses of reduction="none" by it.')
    _check_reduction(reduction)
    _check_same(input, target)
    return _reduced(np.square(input - target), reduction, input.dtype.type(input.size))


def mse_loss_backward(input: Array, target: Array, reduction: str = "mean") -> Array:
    """dL/d(input) = 2 (input - target), over the number of values for "mean"."""
    gradient = 2 * (input - target)
    return gradient / input.dtype.type(input.size) if reduction == "mean" else gradient


class Loss:
    """A loss that remembers its last input, so that `backward` takes no arguments."""

    saved: tuple[Array, Array]

    def __call__(self, input: Array, target: Array) -> Array:
        self.saved = (input, target)
        return self.forward(input, target)

    def forward(self, input: Array, target: Array) -> Array:
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def backward(self) -> Array:
        """dL/d(input) of the last call."""
        raise NotImplementedError(f"{type(self).__name__} has no backward")


class CrossEntropyLoss(Loss):
    """`cross_entropy` of logits [B, K] and class numbers [B] or probabilities [B, K]."""

    def __init__(
        self,
        weight: Array | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        self.settings: dict[str, Any] = {
            "weight": weight,
            "ignore_index": ignore_index,
            "reduction": reduction,
            "label_smoothing": label_smoothing,
        }

    def forward(self, input: Array, target: Array) -> Array:
        return cross_entropy(input, target, **self.settings)

    def backward(self) -> Array:
        return cross_entropy_backward(*self.saved, **self.settings)


class NLLLoss(Loss):
    """`nll_loss` of log-probabilities [B, K] and class numbers [B]."""

    def __init__(self, weight: Array | None = None, ignore_index: int = -100, reduction: str = "mean") -> None:
        self.settings: dict[str, Any] = {"weight": weight, "ignore_index": ignore_index, "reduction": reduction}

    def forward(self, input: Array, target: Array) -> Array:
        return nll_loss(input, target, **self.settings)

    def backward(self) -> Array:
        return nll_loss_backward(*self.saved, **self.settings)


class BCEWithLogitsLoss(Loss):
    """`binary_cross_entropy_with_logits` of logits and 0..1, shapes equal."""

    def __init__(self, weight: Array | None = None, reduction: str = "mean", pos_weight: Array | None = None) -> None:
        self.settings: dict[str, Any] = {"weight": weight, "reduction": reduction, "pos_weight": pos_weight}

    def forward(self, input: Array, target: Array) -> Array:
        return binary_cross_entropy_with_logits(input, target, **self.settings)

    def backward(self) -> Array:
        return binary_cross_entropy_with_logits_backward(*self.saved, **self.settings)


class MSELoss(Loss):
    """`mse_loss` of two arrays of one shape."""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = reduction

    def forward(self, input: Array, target: Array) -> Array:
        return mse_loss(input, target, reduction=self.reduction)

    def backward(self) -> Array:
        return mse_loss_backward(*self.saved, reduction=self.reduction)


def one_hot(target: Array, num_classes: int, dtype: Any = np.float64) -> Array:
    """Class numbers [...] -> [..., num_classes] with a single 1."""
    return np.eye(num_classes, dtype=dtype)[target]


def _surprise(shares: Array, log_probabilities: Array) -> Array:
    """-sum over k of a_k log s_k; with class numbers, a class without a share counts 0 even of log 0 = -inf.

    So a masked logit of another class does no harm, as in torch. Of probabilities torch makes NaN of 0 * -inf.
    """
    return -(shares * np.where(shares == 0, 0, log_probabilities)).sum(axis=-1)


def _shares(
    input: Array, target: Array, weight: Array | None, ignore_index: int, label_smoothing: float
) -> tuple[Array, Array]:
    """a_k of L = -sum over k of a_k log s_k, [B, K] or [K], and what "mean" divides by."""
    check_floating(input=input, weight=weight)
    if input.ndim not in (1, 2):
        expected = "logits [B, K] or [K]"
        raise refuse(f"input {list(input.shape)}", expected, "Losses of maps [B, K, H, W] are not supported.")
    if not 0.0 <= label_smoothing <= 1.0:
        raise refuse(f"label_smoothing={label_smoothing}", "a number from 0 to 1", "0.1 is usual.")
    num_classes = input.shape[-1]
    weights = np.ones(num_classes, input.dtype) if weight is None else weight
    if weights.shape != (num_classes,):
        raise refuse(f"weight {list(weights.shape)}", f"[{num_classes}]", "Give one number per class.")
    target = np.asarray(target)
    smoothing = input.dtype.type(label_smoothing)
    if np.issubdtype(target.dtype, np.floating):
        _check_same(input, target)
        if ignore_index >= 0:
            received = f"ignore_index={ignore_index} with probabilities as targets"
            raise refuse(received, "class numbers with it", "Take these images out of the batch.")
        shares = ((1 - smoothing) * target + smoothing / num_classes) * weights
        return shares, input.dtype.type(input.size // num_classes)
    counted = _check_targets(input, target, ignore_index)
    number = np.where(counted, target, 0)
    smooth = (1 - smoothing) * one_hot(number, num_classes, input.dtype) + smoothing / num_classes
    shares = smooth * weights * counted[..., None]
    return shares, np.asarray((weights[number] * counted).sum(dtype=input.dtype))


def _check_targets(input: Array, target: Array, ignore_index: int) -> Array:
    """Which targets count; refuses class numbers that the input has no column for."""
    if not np.issubdtype(target.dtype, np.integer):
        raise refuse(
            f"target is {target.dtype}", "integers (class numbers) or probabilities", "Convert it with astype."
        )
    if target.shape != input.shape[:-1]:
        raise refuse(
            f"target {list(target.shape)} for input {list(input.shape)}",
            f"{list(input.shape[:-1])}, one class number per image",
            "One-hot targets must be floating; a network that flattens wrongly returns too few rows.",
        )
    counted = target != ignore_index
    wrong = target[counted & ((target < 0) | (target >= input.shape[-1]))]
    if wrong.size:
        fix = f"Give the network {int(wrong.max()) + 1} outputs, or check the labels."
        raise refuse(f"class number {int(wrong.flat[0])}", f"0 to {input.shape[-1] - 1}", fix)
    return counted


def _check_class_numbers(target: Array) -> None:
    if np.issubdtype(np.asarray(target).dtype, np.floating):
        raise refuse("floating targets", "class numbers (integers)", "cross_entropy takes probabilities.")


def _check_same(input: Array, target: Array, **more: Array | None) -> None:
    check_floating(input=input, target=target, **more)
    if input.shape != target.shape:
        raise refuse(f"target {list(target.shape)}", f"the input's shape, {list(input.shape)}", "Reshape one of them.")
    for name, factor in more.items():
        if factor is not None and not _broadcasts(factor.shape, input.shape):
            fix = "Give one factor per number, or per column."
            raise refuse(f"{name} {list(factor.shape)}", f"a shape that broadcasts to {list(input.shape)}", fix)


def _broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether an array of `shape` meets one of shape `to` without making it larger (torch refuses that, too)."""
    fits = all(side in (1, wanted) for side, wanted in zip(shape[::-1], to[::-1], strict=False))
    return len(shape) <= len(to) and fits


def _refuse_old(size_average: None, reduce: None) -> None:
    if size_average is not None or reduce is not None:
        raise refuse("size_average or reduce", "None (torch retired both)", 'Use reduction="mean", "sum" or "none".')


def _check_reduction(reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise refuse(f"reduction={reduction!r}", " or ".join(REDUCTIONS), "Pass one of them.")


def _reduced(losses: Array, reduction: str, divisor: Array) -> Array:
    if reduction == "none":
        return np.asarray(losses)
    return np.asarray(losses.sum() / divisor if reduction == "mean" else losses.sum())
