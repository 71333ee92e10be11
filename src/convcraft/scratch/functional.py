"""The operations under the names of torch.nn.functional: NumPy arrays in, NumPy arrays out.

    from convcraft.scratch import functional as F
    logits = F.linear(F.relu(F.conv2d(images, weight, bias, padding=1)).reshape(len(images), -1), matrix)

Argument names, order and defaults are torch's. What is not supported raises ValueError and says why; nothing is ever
computed in another way than torch would.
"""

from __future__ import annotations

import numpy as np

from convcraft.scratch import activations
from convcraft.scratch.activations import sigmoid, tanh
from convcraft.scratch.checks import Array, check_floating, refuse
from convcraft.scratch.convolution import conv1d, conv2d
from convcraft.scratch.linear import linear
from convcraft.scratch.losses import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    mse_loss,
    nll_loss,
)
from convcraft.scratch.normalisation import batch_norm, local_response_norm
from convcraft.scratch.pooling import adaptive_avg_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "conv1d",
    "conv2d",
    "cross_entropy",
    "dropout",
    "leaky_relu",
    "linear",
    "local_response_norm",
    "log_softmax",
    "max_pool2d",
    "mse_loss",
    "nll_loss",
    "one_hot",
    "pad",
    "relu",
    "sigmoid",
    "softmax",
    "tanh",
]


def relu(input: Array, inplace: bool = False) -> Array:
    """max(input, 0)."""
    _refuse_inplace(inplace)
    return activations.relu(input)


def leaky_relu(input: Array, negative_slope: float = 0.01, inplace: bool = False) -> Array:
    """input where it is positive, else negative_slope * input."""
    _refuse_inplace(inplace)
    return activations.leaky_relu(input, negative_slope)


def softmax(input: Array, dim: int | None = None, _stacklevel: int = 3, dtype: None = None) -> Array:
    """Probabilities along `dim`. It must be named: torch guesses an axis from the number of axes, and warns."""
    return activations.softmax(input, _named_dim(dim, dtype))


def log_softmax(input: Array, dim: int | None = None, _stacklevel: int = 3, dtype: None = None) -> Array:
    """Log-probabilities along `dim`, which must be named as for `softmax`."""
    return activations.log_softmax(input, _named_dim(dim, dtype))


def dropout(
    input: Array, p: float = 0.5, training: bool = True, inplace: bool = False, rng: np.random.Generator | None = None
) -> Array:
    """Zeros with probability p, the rest divided by 1 - p. The draws are NumPy's, so they differ from torch's.

    Args:
        rng: where the draws come from; None takes a fresh, unseeded generator.
    """
    from convcraft.scratch.layers import Dropout

    check_floating(input=input)
    _refuse_inplace(inplace)
    layer = Dropout(p, rng)
    layer.training = training
    return layer(input)


def pad(input: Array, pad: tuple[int, ...], mode: str = "constant", value: float | None = None) -> Array:
    """A border of constant numbers. `pad` counts from the last axis: (left, right, top, bottom, ...)."""
    check_floating(input=input)
    if mode != "constant":
        raise refuse(f"mode={mode!r}", "constant", "np.pad has reflect and edge.")
    if len(pad) % 2 or len(pad) > 2 * input.ndim or min(pad, default=0) < 0:
        expected = f"pairs of whole numbers of at least 0 for at most {input.ndim} axes"
        raise refuse(f"pad={pad}", expected, "(1, 1, 1, 1) pads columns and rows by one; slice to crop.")
    pairs = [(0, 0)] * (input.ndim - len(pad) // 2) + [(pad[i], pad[i + 1]) for i in range(len(pad) - 2, -1, -2)]
    return np.pad(input, pairs, constant_values=0.0 if value is None else value)


def one_hot(tensor: Array, num_classes: int = -1) -> Array:
    """Class numbers [...] -> int64 [..., num_classes] with a single 1; -1: as many as the largest number asks for."""
    if not np.issubdtype(tensor.dtype, np.integer):
        raise refuse(f"tensor is {tensor.dtype}", "integers (class numbers)", "Convert them with astype.")
    if tensor.size == 0 and num_classes <= 0:
        raise refuse("no class numbers and no num_classes", "one of them", "Pass num_classes.")
    count = int(tensor.max()) + 1 if num_classes == -1 else num_classes
    if count < 1 or (tensor.size and (tensor.min() < 0 or tensor.max() >= count)):
        received = f"class numbers {tensor.min()} to {tensor.max()} with num_classes={num_classes}"
        raise refuse(received, "0 to num_classes - 1", "Pass a larger num_classes, or check the labels.")
    return np.eye(count, dtype=np.int64)[tensor]


def _refuse_inplace(inplace: bool) -> None:
    if inplace:
        raise refuse("inplace=True", "False", "Assign the result.")


def _named_dim(dim: int | None, dtype: None) -> int:
    if dim is None:
        raise refuse("no dim", "the axis of the classes", "dim=1 for logits [B, K].")
    if dtype is not None:
        raise refuse(f"dtype={dtype}", "None", "Convert the input with astype.")
    return dim
