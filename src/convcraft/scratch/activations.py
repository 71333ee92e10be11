"""Activations: one number in, one number out, and the softmax, which looks at all classes at once.

Every `*_backward` gets grad_output = dL/d(output) and returns dL/d(input) = grad_output * d(output)/d(input); where the
derivative is short in terms of the output (tanh' = 1 - tanh^2), it takes the output instead of the input.
All keep the shape, the dtype and the order in memory of what they get.
"""

from __future__ import annotations

import numpy as np

from convcraft.scratch.checks import Array, check_floating, refuse


def relu(input: Array) -> Array:
    """max(input, 0). Nair & Hinton 2010."""
    check_floating(input=input)
    return np.maximum(input, 0)


def relu_backward(grad_output: Array, output: Array) -> Array:
    """The gradient passes where the output is positive. At exactly 0 there is no derivative; torch takes 0, as here.

    Beyond finite numbers it differs from torch: an infinite gradient at 0 gives NaN (torch 0), at an output of NaN it
    gives 0 (torch passes it).
    """
    return grad_output * (output > 0)  # np.where takes ten times as long


def leaky_relu(input: Array, negative_slope: float = 0.01) -> Array:
    """input where it is positive, else negative_slope * input. Maas et al. 2013."""
    check_floating(input=input)
    return np.maximum(input, 0) + input.dtype.type(negative_slope) * np.minimum(input, 0)


def leaky_relu_backward(grad_output: Array, input: Array, negative_slope: float = 0.01) -> Array:
    """The slope is 1 where the input is positive, else negative_slope (at 0, too, as in torch)."""
    return np.where(input > 0, grad_output, grad_output.dtype.type(negative_slope) * grad_output)


def sigmoid(input: Array) -> Array:
    """1 / (1 + exp(-input)), as exp(-log(1 + exp(-input))), in which nothing overflows."""
    check_floating(input=input)
    return np.exp(-np.logaddexp(np.zeros((), input.dtype), -input))


def sigmoid_backward(grad_output: Array, output: Array) -> Array:
    """sigmoid' = sigmoid (1 - sigmoid)."""
    return grad_output * output * (1 - output)


def tanh(input: Array) -> Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x)), between -1 and 1."""
    check_floating(input=input)
    return np.tanh(input)


def tanh_backward(grad_output: Array, output: Array) -> Array:
    """tanh' = 1 - tanh^2."""
    return grad_output * (1 - output * output)


def softmax(input: Array, dim: int) -> Array:
    """exp(input) / sum of exp(input) along `dim`: positive numbers that add up to 1.

    The largest entry is taken off first. That changes nothing (it cancels), and exp(1000) = inf never occurs.
    """
    check_floating(input=input)
    check_dim(input, dim)
    exponentials = np.exp(input - input.max(axis=dim, keepdims=True, initial=-np.inf))  # initial: for no numbers at all
    return exponentials / exponentials.sum(axis=dim, keepdims=True)


def softmax_backward(grad_output: Array, output: Array, dim: int) -> Array:
    """Every output depends on every input: d(s_i)/d(x_j) = s_i (1[i = j] - s_j), so

    dL/dx_j = sum over i of g_i s_i (1[i = j] - s_j) = s_j (g_j - sum over i of g_i s_i).
    """
    return output * (grad_output - (grad_output * output).sum(axis=dim, keepdims=True))


def log_softmax(input: Array, dim: int) -> Array:
    """log(softmax(input)) = input - log(sum of exp(input)), without ever computing a probability that may be 0."""
    check_floating(input=input)
    check_dim(input, dim)
    shifted = input - input.max(axis=dim, keepdims=True, initial=-np.inf)
    return shifted - np.log(np.exp(shifted).sum(axis=dim, keepdims=True))


def log_softmax_backward(grad_output: Array, output: Array, dim: int) -> Array:
    """d(log s_i)/d(x_j) = 1[i = j] - s_j, so dL/dx_j = g_j - s_j * (sum over i of g_i)."""
    return grad_output - np.exp(output) * grad_output.sum(axis=dim, keepdims=True)


def check_dim(input: Array, dim: int) -> None:
    """`dim` must be an axis of `input`."""
    if not -input.ndim <= dim < input.ndim:
        expected = f"an axis from {-input.ndim} to {input.ndim - 1}"
        raise refuse(f"dim={dim} for an input of shape {list(input.shape)}", expected, "Classes are axis 1 of [B, K].")
