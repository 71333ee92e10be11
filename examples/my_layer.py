"""Two layers of your own, and how to know that they are right:

    convcraft scratch check examples/my_layer.py

Break one (leave out `.sum(axis=0)`, forget a factor, transpose something) and check again: it says which number is
wrong and what the mistake looks like. docs/scratch-check.md has more.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convcraft.scratch.activations import sigmoid
from convcraft.scratch.module import Module, Parameter

Array = NDArray[np.floating]


class Swish(Module):
    """x * sigmoid(x), any shape. Ramachandran, Zoph, Le 2017, arXiv 1710.05941.

    d/dx x s(x) = s + x s (1 - s).
    """

    def forward(self, input: Array) -> Array:
        self.input = input
        return input * sigmoid(input)

    def backward(self, grad_output: Array) -> Array:
        gate = sigmoid(self.input)
        return grad_output * (gate + self.input * gate * (1 - gate))


class Scale(Module):
    """Each feature times a learned number: [B, F] -> [B, F]."""

    input_shape = (3, 4)  # what `scratch check` tries it on

    def __init__(self, num_features: int = 4) -> None:
        self.weight = Parameter(np.linspace(0.5, 1.5, num_features, dtype=np.float32))

    def forward(self, input: Array) -> Array:
        self.input = input
        return input * self.weight.data

    def backward(self, grad_output: Array) -> Array:
        self.weight.grad += (grad_output * self.input).sum(axis=0)  # over the batch: each image used the same weight
        return grad_output * self.weight.data
