"""Frozen parts stay as they are to the bit, and compute the same in training and in evaluation."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from convcraft.errors import UserError
from convcraft.training.freeze import freeze, is_part, tensor_hashes


def network() -> nn.Sequential:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(trunk, nn.Flatten(), nn.Linear(4 * 6 * 6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def train_steps(model: nn.Module, steps: int = 3) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    model.train()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(torch.randn(16, 1, 8, 8)), torch.randint(3, (16,)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def test_frozen_tensors_keep_their_bits_and_all_others_move() -> None:
    model = network()
    assert freeze(model, ["0"]) == ("0.0.weight", "0.0.bias", "0.1.weight", "0.1.bias")
    before = tensor_hashes(model.state_dict(), ["0", "2", "3", "4"])
    train_steps(model)
    after = tensor_hashes(model.state_dict(), ["0", "2", "3", "4"])
    same = {name for name in before if before[name] == after[name]}
    assert same == {name for name in before if name.startswith("0.")}
    assert {"0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked"} <= same


def test_without_freezing_batch_norm_moves() -> None:
    """The test above would notice: the same steps on the same network move everything."""
    model = network()
    before = tensor_hashes(model.state_dict(), ["0"])
    train_steps(model)
    after = tensor_hashes(model.state_dict(), ["0"])
    assert not any(before[name] == after[name] for name in before)


def test_gradients_alone_do_not_freeze_batch_norm() -> None:
    """Why modules stay in evaluation mode: requires_grad alone lets the statistics move."""
    model = network()
    model[0].requires_grad_(False)
    before = tensor_hashes(model.state_dict(), ["0"])
    train_steps(model)
    after = tensor_hashes(model.state_dict(), ["0"])
    moved = {name for name in before if before[name] != after[name]}
    assert moved == {"0.1.running_mean", "0.1.running_var", "0.1.num_batches_tracked"}


@pytest.mark.parametrize("copied", [False, True])
def test_a_frozen_part_computes_the_same_in_training(copied: bool) -> None:
    model = network()
    freeze(model, ["0"])
    model = copy.deepcopy(model) if copied else model
    images = torch.randn(4, 1, 8, 8)
    evaluated = model.eval()[0](images)
    assert torch.equal(model.train()[0](images), evaluated)
    for module in model.modules():
        module.train()
    assert not any(module.training for module in model[0].modules())
    assert model[3].training


def test_a_name_is_a_whole_module_name() -> None:
    assert is_part("conv1.weight", ["conv1"])
    assert not is_part("conv10.weight", ["conv1"])
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 1, 1))
    model.add_module("conv10", nn.Conv2d(1, 1, 1))
    assert freeze(model, ["conv1"]) == ("conv1.weight", "conv1.bias")
    assert model.conv10.weight.requires_grad


def test_nothing_is_frozen_without_names() -> None:
    model = network()
    assert freeze(model, []) == ()
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_unknown_names_and_freezing_everything_are_refused() -> None:
    model = nn.Sequential()
    model.add_module("conv1", nn.Conv2d(1, 1, 1))
    with pytest.raises(UserError, match="Did you mean conv1") as raised:
        freeze(model, ["conv2"])
    assert "conv2" in raised.value.received
    with pytest.raises(UserError, match="every layer"):
        freeze(model, ["conv1"])
    assert model.conv1.weight.requires_grad
    for name in ("", "weight"):
        with pytest.raises(UserError):
            freeze(model, [name])


def test_hashes_tell_type_shape_and_bytes_apart() -> None:
    values = torch.tensor([[1.0, 2.0]])
    states = [
        {"a.w": values},
        {"a.w": values.reshape(2, 1)},
        {"a.w": values.double()},
        {"a.w": torch.tensor([[1.0, 2.0000002]])},
        {"a.w": torch.tensor([[-0.0, 2.0]])},
        {"a.w": torch.tensor([[0.0, 2.0]])},
    ]
    assert len({tensor_hashes(state, ["a"])["a.w"] for state in states}) == len(states)
    assert tensor_hashes({"a.w": values.clone()}, ["a"]) == tensor_hashes(states[0], ["a"])
    assert tensor_hashes({"a.w": values.t().contiguous().t()}, ["a"]) == tensor_hashes(states[0], ["a"])
    assert tensor_hashes({"a.n": torch.tensor(3)}, ["a"]).keys() == {"a.n"}
