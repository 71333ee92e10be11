"""What every layer shares: names, modes, gradients, state."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from convcraft.scratch.layers import BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from convcraft.scratch.module import Buffer, Chain, Module, Parameter, Sequential


def network() -> Sequential:
    rng = np.random.default_rng(0)
    return Sequential(
        Conv2d(1, 4, 3, rng=rng),
        BatchNorm2d(4),
        ReLU(),
        MaxPool2d(2),
        Flatten(),
        Dropout(0.5, rng),
        Linear(36, 3, rng=rng),
    )


def test_names_are_torchs_and_count_layers_without_parameters() -> None:
    twin = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(36, 3)
    )
    assert [name for name, _ in network().named_parameters()] == [name for name, _ in twin.named_parameters()]
    assert [name for name, _ in network().named_buffers()] == [name for name, _ in twin.named_buffers()]
    assert set(network().state_dict()) == set(twin.state_dict())


def test_a_chain_runs_in_the_order_of_its_attributes_and_back() -> None:
    class Scale(Module):
        def __init__(self, by: float, seen: list[float]) -> None:
            self.by, self.seen = by, seen

        def forward(self, input: np.ndarray) -> np.ndarray:
            self.seen.append(self.by)
            return input * self.by

        def backward(self, grad_output: np.ndarray) -> np.ndarray:
            self.seen.append(-self.by)
            return grad_output * self.by

    seen: list[float] = []

    class Two(Chain):
        def __init__(self) -> None:
            self.first, self.second = Scale(2.0, seen), Scale(3.0, seen)

    chain = Two()
    assert chain(np.ones(1)) == 6
    assert chain.backward(np.ones(1)) == 6
    assert seen == [2, 3, -3, -2]


def test_gradients_add_up_until_they_are_set_back() -> None:
    layers = network()
    images = np.random.default_rng(1).standard_normal((4, 1, 8, 8)).astype(np.float32)
    layers.eval()
    layers.backward(np.ones_like(layers(images)))
    once = [parameter.grad.copy() for parameter in layers.parameters()]
    layers.backward(np.ones_like(layers(images)))
    for parameter, grad in zip(layers.parameters(), once, strict=True):
        assert grad.any()
        assert np.allclose(parameter.grad, 2 * grad, rtol=1e-5)
    layers.zero_grad()
    assert not any(parameter.grad.any() for parameter in layers.parameters())


def test_modes_reach_every_layer() -> None:
    layers = network()
    assert all(each.training for each in layers.modules())
    layers.eval()
    assert not any(each.training for each in layers.modules())
    layers.train()
    assert all(each.training for each in layers.modules())


def test_a_forward_in_evaluation_leaves_the_state_alone() -> None:
    layers = network()
    layers.eval()
    before = layers.state_dict()
    layers(np.random.default_rng(1).standard_normal((4, 1, 8, 8)).astype(np.float32))
    assert all(np.array_equal(array, before[name]) for name, array in layers.state_dict().items())


def test_a_state_dict_is_a_copy() -> None:
    layers = network()
    state = layers.state_dict()
    state["0.weight"][...] = 7
    assert not (layers.state_dict()["0.weight"] == 7).any()
    other = network()
    other.load_state_dict(state)
    state["0.weight"][...] = 8
    assert (other.state_dict()["0.weight"] == 7).all()


def test_loading_keeps_the_dtype_of_the_network() -> None:
    layers = network()
    layers.load_state_dict({name: array.astype(np.float64) for name, array in layers.state_dict().items()})
    assert {parameter.data.dtype for parameter in layers.parameters()} == {np.dtype(np.float32)}
    assert layers.state_dict()["1.num_batches_tracked"].dtype == np.int64


def test_a_state_dict_without_the_count_of_batches_loads() -> None:
    state = network().state_dict()
    del state["1.num_batches_tracked"]
    network().load_state_dict(state)


def test_a_state_dict_that_does_not_fit_is_refused_and_changes_nothing() -> None:
    layers = network()
    before = layers.state_dict()
    state = {name: array + 1 for name, array in before.items()}
    for wrong in (
        {name: array for name, array in state.items() if name != "6.bias"},
        {**state, "7.weight": np.ones(3)},
        {**state, "6.weight": np.ones((2, 36), np.float32)},
    ):
        with pytest.raises(ValueError, match="expected"):
            layers.load_state_dict(wrong)
        assert all(np.array_equal(array, before[name]) for name, array in layers.state_dict().items())


def test_float64_reaches_parameters_gradients_and_statistics_alone() -> None:
    layers = network().astype(np.float64)
    assert {parameter.data.dtype for parameter in layers.parameters()} == {np.dtype(np.float64)}
    assert {parameter.grad.dtype for parameter in layers.parameters()} == {np.dtype(np.float64)}
    kinds = {name: buffer.data.dtype for name, buffer in layers.named_buffers()}
    assert kinds["1.running_mean"] == np.float64
    assert kinds["1.num_batches_tracked"] == np.int64


def test_freezing() -> None:
    layers = network()
    layers[0].freeze()
    assert [parameter.trainable for parameter in layers.parameters()] == [False, False, True, True, True, True]


def test_parameters_and_buffers_of_a_layer_of_ones_own() -> None:
    class Own(Module):
        def __init__(self) -> None:
            self.gain = Parameter(np.ones(2))
            self.count = Buffer(np.zeros(1))
            self.inner = Linear(2, 2)

    own = Own()
    assert list(own.state_dict()) == ["gain", "inner.weight", "inner.bias", "count"]
    with pytest.raises(NotImplementedError, match="Own has no forward"):
        own(np.ones(2))
    with pytest.raises(NotImplementedError, match="Own has no backward"):
        own.backward(np.ones(2))
