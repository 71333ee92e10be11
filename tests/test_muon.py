"""Muon: its update equals a plain NumPy formula, is orthogonal, and leaves the rest to the other optimiser."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from convcraft.config import ModelConfig, OptimConfig
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.training import optimizer_state
from convcraft.training.muon import hidden_weights, orthogonalize
from convcraft.training.optim import build_optimizer

RATE, OTHER, DECAY = 0.05, 0.01, 0.1


def newton_schulz(matrix: NDArray[np.float64], steps: int = 5) -> NDArray[np.float64]:
    """The iteration as its paper writes it, in float64."""
    x = matrix / np.linalg.norm(matrix)
    x = x if x.shape[0] <= x.shape[1] else x.T
    for _ in range(steps):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if matrix.shape[0] <= matrix.shape[1] else x.T


def small_net() -> nn.Sequential:
    """First convolution, hidden convolution, hidden linear layer, classifier."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 10), nn.Linear(10, 4)
    )


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


@pytest.mark.parametrize("shape", [(16, 144), (32, 32), (40, 12)])
def test_the_update_equals_the_plain_iteration(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    np.testing.assert_allclose(orthogonalize(matrix).numpy(), newton_schulz(matrix.numpy()), atol=1e-7)
    np.testing.assert_allclose(orthogonalize(matrix.float()).numpy(), newton_schulz(matrix.numpy()), atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 576), (576, 64), (128, 1152)])
def test_singular_values_come_near_one(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(orthogonalize(matrix))
    assert before[0] / before[-1] > 1.5
    assert 0.6 < after.min() < after.max() < 1.3


def test_an_uneven_spectrum_and_a_singular_matrix_stay_finite() -> None:
    generator = torch.Generator().manual_seed(3)
    falling = torch.randn(64, 576, generator=generator) * torch.logspace(0, -2, 64)[:, None]
    values = torch.linalg.svdvals(orthogonalize(falling))
    shares = torch.linalg.svdvals(falling) / falling.norm()
    assert values[shares > 0.003].min() > 0.6
    assert values.max() < 1.3
    rank_one = torch.outer(torch.ones(32), torch.randn(288, generator=generator))
    np.testing.assert_allclose(orthogonalize(rank_one).numpy(), newton_schulz(rank_one.double().numpy()), atol=1e-3)
    assert torch.equal(orthogonalize(torch.zeros(4, 9)), torch.zeros(4, 9))


@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("scale", ["rms", "relative"])
def test_two_steps_equal_the_hand_formula(scale: str, nesterov: bool) -> None:
    model = small_net().double()
    config = OptimConfig(
        name="muon", learning_rate=RATE, weight_decay=DECAY, momentum=0.8, nesterov=nesterov, muon_scale=scale
    )
    optimizer = build_optimizer(config, model)
    parameter = model[2].weight
    weight = parameter.detach().numpy().reshape(6, 72).copy()
    velocity = np.zeros_like(weight)
    for step in range(2):
        set_gradients(model, step)
        gradient = parameter.grad.numpy().reshape(6, 72).copy()
        optimizer.step()
        velocity = 0.8 * velocity + gradient
        update = newton_schulz(gradient + 0.8 * velocity if nesterov else velocity)
        if scale == "rms":
            weight = weight * (1 - RATE * DECAY) - RATE * 0.2 * np.sqrt(72) * update
        else:
            weight = weight * np.sqrt(6) / np.linalg.norm(weight) - RATE * update
    np.testing.assert_allclose(parameter.detach().numpy().reshape(6, 72), weight, atol=1e-7)


def test_rms_updates_are_as_large_as_those_of_adamw() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.Conv2d(64, 128, 3), nn.Linear(8, 2))
    before = model[1].weight.detach().clone()
    set_gradients(model, 0)
    build_optimizer(OptimConfig(name="muon", learning_rate=RATE, weight_decay=0.0), model).step()
    assert (model[1].weight - before).square().mean().sqrt().item() == pytest.approx(0.2 * RATE, rel=0.2)


@pytest.mark.parametrize("other", ["adamw", "sgd"])
def test_the_rest_moves_as_by_the_other_optimizer_alone(other: str) -> None:
    model, twin = small_net(), small_net()
    config = OptimConfig(name="muon", learning_rate=RATE, other_learning_rate=OTHER, weight_decay=DECAY, other=other)
    optimizer = build_optimizer(config, model)
    for group in optimizer.param_groups:
        group["lr"] = RATE * group.get("rate_factor", 1.0)  # as the loop does
    alone = build_optimizer(OptimConfig(name=other, learning_rate=OTHER, weight_decay=DECAY), twin)
    for step in range(3):
        set_gradients(model, step), set_gradients(twin, step)
        optimizer.step(), alone.step()
    for index in (0, 1, 5):  # first convolution, norm, classifier
        for name, tensor in model[index].state_dict().items():
            torch.testing.assert_close(tensor, twin[index].state_dict()[name], rtol=1e-6, atol=1e-7)
    for index in (2, 4):
        assert not torch.equal(model[index].weight, twin[index].weight)
        torch.testing.assert_close(model[index].bias, twin[index].bias, rtol=1e-6, atol=1e-7)


def test_both_rates_follow_the_schedule_in_proportion() -> None:
    config = OptimConfig(name="muon", learning_rate=RATE, other_learning_rate=OTHER)
    groups = build_optimizer(config, small_net()).param_groups
    assert [group.get("rate_factor", 1.0) for group in groups] == [1.0, OTHER / RATE, OTHER / RATE]
    assert len(groups[0]["params"]) == 2
    assert sum(len(group["params"]) for group in groups) == len(list(small_net().parameters()))


def test_state_travels_through_named_tensors_exactly() -> None:
    config = OptimConfig(name="muon", learning_rate=RATE, other="adamw")
    model = small_net().to(memory_format=torch.channels_last)
    optimizer = build_optimizer(config, model)
    set_gradients(model, 0)
    optimizer.step()
    twin = copy.deepcopy(model)
    resumed = build_optimizer(config, twin)
    optimizer_state.load_tensors(resumed, {k: v.clone() for k, v in optimizer_state.to_tensors(optimizer).items()})
    for step in range(1, 4):
        set_gradients(model, step), set_gradients(twin, step)
        optimizer.step(), resumed.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(one, other)
    before, after = optimizer_state.to_tensors(optimizer), optimizer_state.to_tensors(resumed)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_which_weights_are_hidden() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 16, 1), nn.Linear(16, 16), nn.Linear(16, 2)
    )
    assert [id(weight) for weight in hidden_weights(model)] == [id(model[2].weight), id(model[3].weight)]
    model[2].weight.requires_grad_(False)
    assert [id(weight) for weight in hidden_weights(model)] == [id(model[3].weight)]
    net = build_model(ModelConfig(name="lenet5"), num_classes=10, in_channels=1, image_size=(28, 28))
    chosen = {id(weight) for weight in hidden_weights(net)}
    assert [n for n, p in net.named_parameters() if id(p) in chosen] == ["c3.weight", "c5.weight", "f6.weight"]
    timm_net = build_model(ModelConfig(name="resnet10t"), num_classes=4, in_channels=3, image_size=(64, 64))
    chosen = {id(weight) for weight in hidden_weights(timm_net)}
    names = [name for name, parameter in timm_net.named_parameters() if id(parameter) in chosen]
    assert "conv1.0.weight" not in names
    assert "fc.weight" not in names
    assert "layer1.0.conv1.weight" in names


def test_a_network_without_hidden_layers_is_refused() -> None:
    with pytest.raises(UserError, match="no hidden layer"):
        build_optimizer(OptimConfig(name="muon"), nn.Sequential(nn.Flatten(), nn.Linear(4, 2)))
