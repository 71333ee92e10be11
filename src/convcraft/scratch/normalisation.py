"""Batch norm: every channel is brought to mean 0 and variance 1, then scaled and shifted by two learned numbers.

Ioffe & Szegedy 2015, "Batch Normalization", arXiv 1502.03167, algorithm 1. Training uses the mean and variance of the
batch and remembers a running mean of both; evaluation uses what was remembered.

And what came before it, AlexNet's local response normalisation, which divides each map by what its neighbours see.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from convcraft.scratch.checks import Array, check_floating, refuse


@dataclass(frozen=True)
class SavedBatchNorm:
    normalised: Array  # x_hat, shape of the input
    inverse_std: Array  # [C], 1 / sqrt(variance + eps)
    weight: Array | None  # [C]
    of_batch: bool  # mean and variance were those of the batch, so they depend on the input


def batch_norm(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Array:
    """(input - mean) / sqrt(variance + eps) * weight + bias, channel by channel.

    Args:
        input: [B, C] or [B, C, ...].
        running_mean, running_var: [C]; training moves them in place towards those of the batch:
            running = (1 - momentum) running + momentum batch. (Keras's momentum is 1 minus this one.)
        weight, bias: [C], gamma and beta of the paper.
        training: use mean and variance of the batch.
        eps: keeps the root away from 0 (torch 1e-5, Keras 1e-3).

    Returns:
        the shape of input.

    Raises:
        ValueError: one value per channel in training (its variance is 0), or evaluation without running statistics.
    """
    return batch_norm_forward(input, running_mean, running_var, weight, bias, training, momentum, eps)[0]


def batch_norm_forward(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None = None,
    bias: Array | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> tuple[Array, SavedBatchNorm]:
    """`batch_norm`, and what backward needs."""
    _check(input, running_mean, running_var, weight, bias, training, eps)
    if training:
        mean, variance, centred = batch_statistics(input)
        if running_mean is not None and running_var is not None and input.size:
            count = input.size // input.shape[1]
            _move(running_mean, mean, momentum)
            _move(running_var, variance * input.dtype.type(count / (count - 1)), momentum)  # unbiased, as in torch
    else:
        assert running_mean is not None
        assert running_var is not None
        variance, centred = running_var, input - per_channel(running_mean, input)
    inverse_std = (variance + input.dtype.type(eps)) ** input.dtype.type(-0.5)
    normalised = centred
    normalised *= per_channel(inverse_std, input)
    output = normalised if weight is None else normalised * per_channel(weight, input)
    output = output if bias is None else output + per_channel(bias, input)
    return output, SavedBatchNorm(normalised, inverse_std, weight, training)


def batch_norm_backward(grad_output: Array, saved: SavedBatchNorm) -> tuple[Array, Array, Array]:
    """Gradients of input, weight and bias; [shape of input], [C], [C].

    With g = grad_output, x_hat the normalised input and sums over the M values of a channel:
        dL/dbias   = sum g
        dL/dweight = sum g x_hat
    Evaluation: mean and variance are constants, so dL/dinput = g weight inverse_std.
    Training: they depend on every input of the channel. Differentiating x_hat = (x - mean) inverse_std through both,
        dL/dinput = weight inverse_std (g - (sum g) / M - x_hat (sum g x_hat) / M)
    The two terms take out of g what the norm would undo: a shift of all inputs, and a common factor.

    Using the second formula in evaluation mode is a classic mistake of saliency maps: it gives another direction.
    """
    grad_bias = sum_per_channel(grad_output)
    grad_weight = sum_per_channel(grad_output * saved.normalised)
    scale = saved.inverse_std if saved.weight is None else saved.inverse_std * saved.weight
    grad_input = grad_output * per_channel(scale, grad_output)
    if saved.of_batch:
        count = grad_output.dtype.type(grad_output.size // grad_output.shape[1])
        grad_input -= per_channel(scale * grad_bias / count, grad_output)
        grad_input -= saved.normalised * per_channel(scale * grad_weight / count, grad_output)
    return grad_input, grad_weight, grad_bias


def batch_statistics(input: Array) -> tuple[Array, Array, Array]:
    """Mean and (biased) variance of each channel, [C] and [C], and input - mean.

    In two passes, the mean first: mean(x^2) - mean(x)^2 is one pass, but subtracts two large numbers and loses all
    digits where the mean is large against the spread.
    """
    count = input.dtype.type(input.size // input.shape[1])
    mean = sum_per_channel(input) / count
    centred = input - per_channel(mean, input)
    return mean, sum_per_channel(np.square(centred)) / count, centred


def sum_per_channel(maps: Array) -> Array:
    """[B, C] or [B, C, ...] -> [C]."""
    if not _channels_innermost(maps):
        return maps.sum(axis=(0, *range(2, maps.ndim)))
    pixels = np.moveaxis(maps, 1, -1)  # [B, ..., W, C]
    wide = pixels.reshape(-1, pixels.shape[-2] * pixels.shape[-1])  # a long row adds up faster than a short one
    return wide.sum(axis=0).reshape(pixels.shape[-2:]).sum(axis=0)


def per_channel(values: Array, like: Array) -> Array:
    """[C] -> [1, C, 1, 1] (as many axes as `like`), so that it meets every pixel of its channel."""
    column = values.reshape(1, -1, *[1] * (like.ndim - 2))
    if not _channels_innermost(like):
        return column
    # Repeated along a row of pixels, so that NumPy's inner loop is W * C long and not C.
    row = np.repeat(values[None], like.shape[-1], axis=0)  # [W, C]
    return np.moveaxis(row.reshape(*[1] * (like.ndim - 2), *row.shape), -1, 1)


def _channels_innermost(maps: Array) -> bool:
    return maps.ndim > 2 and maps.strides[1] == maps.itemsize and maps.shape[1] > 1


def local_response_norm(input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Array:
    """input / (k + alpha / size * sum of the squares of `size` neighbouring channels) ** beta.

    Krizhevsky et al. 2012, section 3.3, with torch's division of alpha by size and zeros beyond the first and last
    channel.

    Args:
        input: [B, C, ...], at least three axes.
        size: channels that are summed; channel c sees c - size // 2 to c + (size - 1) // 2.
    """
    return input * _lrn_scale(input, size, alpha, k) ** input.dtype.type(-beta)


def local_response_norm_backward(
    grad_output: Array, input: Array, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Array:
    """With d the scale, y_c = x_c d_c^-beta, and d_e contains x_c^2 for every e that c is a neighbour of, so

    dL/dx_c = g_c d_c^-beta - 2 alpha beta / size * x_c * (sum over these e of g_e x_e d_e^(-beta - 1)).
    """
    scale = _lrn_scale(input, size, alpha, k)
    power = scale ** input.dtype.type(-beta)
    shared = _over_neighbours(grad_output * input * power / scale, before=(size - 1) // 2, after=size // 2)
    return grad_output * power - input.dtype.type(2 * alpha * beta / size) * input * shared


def _lrn_scale(input: Array, size: int, alpha: float, k: float) -> Array:
    check_floating(input=input)
    if input.ndim < 3 or size < 1:
        received = f"input {list(input.shape)} and size={size}"
        raise refuse(received, "[B, C, ...] with at least 3 axes and a size of at least 1", "5 is AlexNet's size.")
    squares = _over_neighbours(np.square(input), before=size // 2, after=(size - 1) // 2)
    return input.dtype.type(k) + input.dtype.type(alpha / size) * squares


def _over_neighbours(maps: Array, before: int, after: int) -> Array:
    """sums[:, c] = sum of maps[:, c - before] ... maps[:, c + after], as far as they exist."""
    sums = maps.copy()
    channels = maps.shape[1]
    for offset in range(1, min(max(before, after), channels - 1) + 1):
        if offset <= before:
            sums[:, offset:] += maps[:, : channels - offset]
        if offset <= after:
            sums[:, : channels - offset] += maps[:, offset:]
    return sums


def _move(running: Array, towards: Array, momentum: float) -> None:
    running += running.dtype.type(momentum) * (towards - running)


def _check(
    input: Array,
    running_mean: Array | None,
    running_var: Array | None,
    weight: Array | None,
    bias: Array | None,
    training: bool,
    eps: float,
) -> None:
    check_floating(input=input, running_mean=running_mean, running_var=running_var, weight=weight, bias=bias)
    if input.ndim < 2:
        raise refuse(f"input {list(input.shape)}", "[B, C] or [B, C, ...]", "Add the batch axis: input[None].")
    vectors = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    for name, vector in vectors.items():
        if vector is not None and vector.shape != (input.shape[1],):
            raise refuse(f"{name} {list(vector.shape)}", f"[{input.shape[1]}]", "Give one number per channel.")
    if (running_mean is None) != (running_var is None):
        raise refuse("one of running_mean and running_var", "both or none", "Pass the other, too.")
    if not training and running_mean is None:
        raise refuse("evaluation without running statistics", "running_mean and running_var", "Or set training=True.")
    if eps < 0 or (training and eps == 0):
        raise refuse(f"eps={eps}", "a number above 0 (in evaluation 0, too)", "1e-5 is usual.")
    if training and input.size == input.shape[1]:
        fix = "Use a larger batch or larger maps, or freeze the norm."
        raise refuse("one value per channel in training", "at least two (the variance of one is 0)", fix)
