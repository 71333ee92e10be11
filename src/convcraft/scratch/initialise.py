"""Start values: Xavier's and He's rules, which keep signals of one size through many layers, and torch's defaults.

    fan_in  = inputs that one output sums  = in_channels / groups * kernel height * kernel width
    fan_out = outputs that one input feeds = out_channels * kernel height * kernel width, as torch counts it

All functions draw from a numpy Generator, so that a seed names a network.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convcraft.scratch.checks import Array, refuse
from convcraft.scratch.layers import Conv2d, Linear
from convcraft.scratch.module import Module


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """(fan_in, fan_out) of a weight [out, in / groups, ...kernel]."""
    area = math.prod(shape[2:])
    return shape[1] * area, shape[0] * area


def xavier_uniform(shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """U(-a, a), a = sqrt(6 / (fan_in + fan_out)): variance 2 / (fan_in + fan_out). Glorot & Bengio 2010, eq. 16."""
    return _uniform(shape, math.sqrt(6 / sum(fans(shape))), rng, dtype)


def xavier_normal(shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """N(0, 2 / (fan_in + fan_out)). Glorot & Bengio 2010."""
    return _normal(shape, math.sqrt(2 / sum(fans(shape))), rng, dtype)


def he_normal(shape: tuple[int, ...], rng: np.random.Generator, mode: str = "fan_in", dtype: Any = np.float32) -> Array:
    """N(0, 2 / fan): the 2 restores what ReLU halves. He et al. 2015, arXiv 1502.01852, eq. 10 and 14."""
    return _normal(shape, math.sqrt(2 / _fan(shape, mode)), rng, dtype)


def he_uniform(
    shape: tuple[int, ...], rng: np.random.Generator, mode: str = "fan_in", dtype: Any = np.float32
) -> Array:
    """U(-a, a), a = sqrt(6 / fan): variance 2 / fan. He et al. 2015."""
    return _uniform(shape, math.sqrt(6 / _fan(shape, mode)), rng, dtype)


def torch_default(shape: tuple[int, ...], rng: np.random.Generator, dtype: Any = np.float32) -> Array:
    """U(-a, a), a = 1 / sqrt(fan_in): what torch gives convolutions and linear layers (a third of 1 / fan_in)."""
    return _uniform(shape, 1 / math.sqrt(fans(shape)[0]), rng, dtype)


def initialise_he(network: Module, rng: np.random.Generator, mode: str = "fan_in") -> None:
    """He's rule for all convolutions and linear layers, biases 0; for ReLU networks."""
    for layer in _weighted(network):
        layer.weight.data = he_normal(layer.weight.data.shape, rng, mode, layer.weight.data.dtype)
        _zero_bias(layer)


def initialise_xavier(network: Module, rng: np.random.Generator) -> None:
    """Xavier's rule for all convolutions and linear layers, biases 0; for tanh networks, and Keras's default."""
    for layer in _weighted(network):
        layer.weight.data = xavier_uniform(layer.weight.data.shape, rng, layer.weight.data.dtype)
        _zero_bias(layer)


def initialise_classifier(classifier: Linear, rng: np.random.Generator) -> None:
    """Small weights N(0, 0.01), bias 0: all classes begin equally likely, so the first loss is close to ln K."""
    classifier.weight.data = _normal(classifier.weight.data.shape, 0.01, rng, classifier.weight.data.dtype)
    _zero_bias(classifier)


def _weighted(network: Module) -> list[Conv2d | Linear]:
    return [layer for layer in network.modules() if isinstance(layer, Conv2d | Linear)]


def _zero_bias(layer: Conv2d | Linear) -> None:
    if layer.bias is not None:
        layer.bias.data = np.zeros_like(layer.bias.data)


def _fan(shape: tuple[int, ...], mode: str) -> int:
    if mode not in ("fan_in", "fan_out"):
        raise refuse(f"mode={mode!r}", "fan_in or fan_out", "fan_in keeps the size of signals, fan_out of gradients.")
    return fans(shape)[mode == "fan_out"]


def _normal(shape: tuple[int, ...], std: float, rng: np.random.Generator, dtype: Any) -> Array:
    return (std * rng.standard_normal(shape)).astype(dtype)


def _uniform(shape: tuple[int, ...], bound: float, rng: np.random.Generator, dtype: Any) -> Array:
    return rng.uniform(-bound, bound, shape).astype(dtype)
