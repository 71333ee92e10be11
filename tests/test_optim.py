"""One step of each optimiser equals the hand formula; norms and biases do not decay."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from convcraft.config import OptimConfig
from convcraft.training.optim import build_optimizer

RATE, DECAY = 0.1, 0.01


def two_steps(**settings: object) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Weights and bias before and after two steps with the same gradient."""
    torch.manual_seed(0)
    layer = nn.Linear(3, 2).double()
    config = OptimConfig(learning_rate=RATE, weight_decay=DECAY, **settings)  # type: ignore[arg-type]
    optimizer = build_optimizer(config, layer)
    before, bias = layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()
    gradient = torch.randn(2, 3, dtype=torch.float64)
    for _ in range(2):
        layer.weight.grad, layer.bias.grad = gradient.clone(), torch.zeros(2, dtype=torch.float64)
        optimizer.step()
    return before, gradient.numpy(), layer.weight.detach().numpy(), bias, layer.bias.detach().numpy()


def test_sgd_with_momentum() -> None:
    weight, gradient, after, _, _ = two_steps(name="sgd", momentum=0.9, nesterov=False)
    velocity = np.zeros_like(weight)
    for _ in range(2):
        velocity = 0.9 * velocity + gradient + DECAY * weight
        weight = weight - RATE * velocity
    np.testing.assert_allclose(after, weight, atol=1e-12)


def test_sgd_with_nesterov() -> None:
    weight, gradient, after, _, _ = two_steps(name="sgd", momentum=0.9, nesterov=True)
    velocity = np.zeros_like(weight)
    for _ in range(2):
        total = gradient + DECAY * weight
        velocity = 0.9 * velocity + total
        weight = weight - RATE * (total + 0.9 * velocity)
    np.testing.assert_allclose(after, weight, atol=1e-12)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_and_adamw(name: str) -> None:
    weight, gradient, after, _, _ = two_steps(name=name)
    first, second = np.zeros_like(weight), np.zeros_like(weight)
    for step in (1, 2):
        total = gradient
        if name == "adam":
            total = gradient + DECAY * weight
        else:
            weight = weight * (1 - RATE * DECAY)
        first, second = 0.9 * first + 0.1 * total, 0.999 * second + 0.001 * total**2
        mean, square = first / (1 - 0.9**step), second / (1 - 0.999**step)
        weight = weight - RATE * mean / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(after, weight, atol=1e-12)


def test_rmsprop() -> None:
    weight, gradient, after, _, _ = two_steps(name="rmsprop", momentum=0.0)
    square = np.zeros_like(weight)
    for _ in range(2):
        total = gradient + DECAY * weight
        square = 0.99 * square + 0.01 * total**2
        weight = weight - RATE * total / (np.sqrt(square) + 1e-8)
    np.testing.assert_allclose(after, weight, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop"])
def test_biases_and_norms_do_not_decay(name: str) -> None:
    _, _, _, bias, after = two_steps(name=name)
    np.testing.assert_array_equal(bias, after)  # their gradient is 0, so only decay could move them
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    decayed, plain = build_optimizer(OptimConfig(name=name, weight_decay=DECAY), model).param_groups
    assert decayed["weight_decay"] == DECAY
    assert plain["weight_decay"] == 0
    assert [p.ndim for p in decayed["params"]] == [4, 2]
    assert len(plain["params"]) == 4
    assert math.isclose(plain["lr"], decayed["lr"])
