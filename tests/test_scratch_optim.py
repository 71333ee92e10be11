"""Optimisers of the NumPy engine: five steps beside torch's in float64, groups, frozen parameters, clipping."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scratch_parity import gap

from convcraft.scratch import optim
from convcraft.scratch.module import Parameter

STEPS, WITHIN = 5, 1e-9
SHAPES = ((4, 3), (4,), (2, 3, 3, 3))
Rule = type[optim.Optimizer]

RULES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    ("SGD", {"momentum": 0.9, "nesterov": True}),
    ("SGD", {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.8, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"momentum": 0.9}),
    ("Adam", {}),
    ("Adam", {"betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("AdamW", {}),
    ("AdamW", {"betas": (0.7, 0.9), "weight_decay": 0.3}),
]


def start() -> tuple[list[Parameter], list[torch.nn.Parameter]]:
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(shape) for shape in SHAPES]
    return [Parameter(array.copy()) for array in arrays], [torch.nn.Parameter(torch.tensor(array)) for array in arrays]


def set_gradients(ours: list[Parameter], theirs: list[torch.nn.Parameter], step: int, scale: float = 1.0) -> None:
    """Those of a loss that depends on the weights, so that an error grows from step to step."""
    rng = np.random.default_rng(step)
    for parameter, other in zip(ours, theirs, strict=True):
        noise = rng.standard_normal(parameter.data.shape)
        parameter.grad[...] = scale * (np.sin(parameter.data) + noise)
        other.grad = scale * (torch.sin(other.detach()) + torch.tensor(noise))


def assert_same_weights(ours: list[Parameter], theirs: list[torch.nn.Parameter]) -> None:
    for parameter, other in zip(ours, theirs, strict=True):
        assert parameter.data.dtype == np.float64
        assert gap(parameter.data, other) <= WITHIN


@pytest.mark.parametrize(("name", "settings"), RULES)
@pytest.mark.parametrize("learning_rate", [0.05, None])
def test_five_steps(name: str, settings: dict[str, Any], learning_rate: float | None) -> None:
    """None: the defaults, which are torch's."""
    ours, theirs = start()
    rates = [{}, {}] if learning_rate is None else [{"learning_rate": learning_rate}, {"lr": learning_rate}]
    rule = getattr(optim, name)(ours, **rates[0], **settings)
    twin = getattr(torch.optim, name)(theirs, **rates[1], **settings)
    for step in range(STEPS):
        set_gradients(ours, theirs, step)
        rule.step()
        twin.step()
        assert_same_weights(ours, theirs)


@pytest.mark.parametrize("name", ["SGD", "RMSprop", "Adam", "AdamW"])
def test_groups_have_settings_of_their_own_and_rates_may_change(name: str) -> None:
    ours, theirs = start()
    rule = getattr(optim, name)(
        [{"parameters": ours[:1], "weight_decay": 0.2}, {"parameters": ours[1:], "learning_rate": 0.3}],
        learning_rate=0.01,
    )
    twin = getattr(torch.optim, name)(
        [{"params": theirs[:1], "weight_decay": 0.2}, {"params": theirs[1:], "lr": 0.3}], lr=0.01
    )
    for step in range(STEPS):
        rule.groups[1]["learning_rate"] = twin.param_groups[1]["lr"] = 0.3 / (step + 1)
        set_gradients(ours, theirs, step)
        rule.step()
        twin.step()
        assert_same_weights(ours, theirs)


@pytest.mark.parametrize(("name", "settings"), RULES)
def test_frozen_parameters_stay_bit_for_bit_and_may_thaw(name: str, settings: dict[str, Any]) -> None:
    ours, theirs = start()
    before = ours[1].data.copy()
    ours[1].trainable = False
    rule = getattr(optim, name)(ours, learning_rate=0.05, **settings)
    twin = getattr(torch.optim, name)(theirs, lr=0.05, **settings)
    for step in range(STEPS):
        set_gradients(ours, theirs, step)
        if step < 3:
            theirs[1].grad = None
        elif step == 3:
            ours[1].trainable = True
        if step < 3:
            assert np.array_equal(ours[1].data, before)
        rule.step()
        twin.step()
        assert_same_weights(ours, theirs)
    assert not np.array_equal(ours[1].data, before)


@pytest.mark.parametrize(("name", "settings"), RULES)
def test_float32_stays_float32(name: str, settings: dict[str, Any]) -> None:
    parameter = Parameter(np.ones((3, 2), np.float32))
    rule = getattr(optim, name)([parameter], learning_rate=np.float64(0.05), **settings)
    for _ in range(3):
        parameter.grad += np.float32(0.5)
        rule.step()
    assert parameter.data.dtype == np.float32
    assert all(value.dtype == np.float32 for value in rule.memory[0].values() if isinstance(value, np.ndarray))


def test_weights_keep_their_place_in_memory() -> None:
    """Layers hold the Parameter, others may hold its array: a step writes into both."""
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        parameter = Parameter(np.ones(3))
        array = parameter.data
        parameter.grad += 1
        getattr(optim, name)([parameter]).step()
        assert parameter.data is array
        assert (array < 1).all()


def test_zero_grad() -> None:
    ours, theirs = start()
    set_gradients(ours, theirs, 0)
    optim.SGD(ours).zero_grad()
    assert not any(parameter.grad.any() for parameter in ours)


@pytest.mark.parametrize("max_norm", [0.5, 5.0, 1e6])
def test_clipping_by_the_common_norm(max_norm: float) -> None:
    ours, theirs = start()
    set_gradients(ours, theirs, 0)
    norm = optim.clip_grad_norm(ours, max_norm)
    assert abs(norm - float(torch.nn.utils.clip_grad_norm_(theirs, max_norm))) <= WITHIN
    for parameter, other in zip(ours, theirs, strict=True):
        assert other.grad is not None
        assert gap(parameter.grad, other.grad) <= WITHIN
    assert optim.clip_grad_norm(ours, 1e9) <= max_norm + WITHIN


def test_a_gradient_of_nan_spoils_all_as_in_torch() -> None:
    ours, theirs = start()
    set_gradients(ours, theirs, 0)
    assert theirs[0].grad is not None
    ours[0].grad[0, 0] = theirs[0].grad[0, 0] = np.nan
    assert np.isnan(optim.clip_grad_norm(ours, 0.5))
    torch.nn.utils.clip_grad_norm_(theirs, 0.5)
    for parameter, other in zip(ours, theirs, strict=True):
        assert other.grad is not None
        assert np.isnan(parameter.grad).all()
        assert torch.isnan(other.grad).all()


def test_frozen_gradients_do_not_count_in_the_norm() -> None:
    ours, theirs = start()
    set_gradients(ours, theirs, 0)
    ours[0].trainable, theirs[0].grad = False, None
    before = ours[0].grad.copy()
    assert abs(optim.clip_grad_norm(ours, 0.5) - float(torch.nn.utils.clip_grad_norm_(theirs, 0.5))) <= WITHIN
    assert np.array_equal(ours[0].grad, before)
    assert gap(ours[1].grad, theirs[1].grad) <= WITHIN


def test_clipped_steps_with_momentum() -> None:
    ours, theirs = start()
    rule = optim.SGD(ours, learning_rate=0.1, momentum=0.9)
    twin = torch.optim.SGD(theirs, lr=0.1, momentum=0.9)
    for step in range(STEPS):
        set_gradients(ours, theirs, step, scale=10.0)
        optim.clip_grad_norm(ours, 1.0)
        torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        rule.step()
        twin.step()
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda given: optim.SGD(given, learning_rate=-0.1), "learning_rate=-0.1"),
        (lambda given: optim.SGD(given, momentum=1.5), "momentum=1.5"),
        (lambda given: optim.SGD(given, nesterov=True), "nesterov with momentum=0.0"),
        (lambda given: optim.SGD(given, momentum=0.9, dampening=0.1, nesterov=True), "dampening=0.1"),
        (lambda given: optim.Adam(given, betas=(0.9, 1.0)), "betas=(0.9, 1.0)"),
        (lambda given: optim.AdamW(given, weight_decay=-1.0), "weight_decay=-1.0"),
        (lambda given: optim.RMSprop(given, eps=-1.0), "eps=-1.0"),
        (lambda given: optim.Adam([]), "no parameters"),
        (lambda given: optim.Adam([{"parameters": given, "lr": 0.1}]), "['lr']"),
        (lambda given: optim.SGD([{"parameters": given, "nesterov": True}]), "nesterov"),
        (lambda given: optim.clip_grad_norm(given, 0.0), "max_norm=0.0"),
    ],
)
def test_refusals(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        call([Parameter(np.ones(3))])
    assert words in str(refused.value)
