"""Learning rates and start values of the NumPy engine: beside torch's schedulers, and by their statistics."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from convcraft.config import ScheduleConfig
from convcraft.models import initialise as torch_start
from convcraft.scratch import initialise, schedules
from convcraft.scratch.layers import BatchNorm2d, Conv2d, Linear, ReLU
from convcraft.scratch.module import Sequential
from convcraft.training.schedules import factor_at

WITHIN = 1e-12


def torch_rates(make: Any, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def assert_close(ours: list[float], theirs: list[float]) -> None:
    assert max(abs(a - b) for a, b in zip(ours, theirs, strict=True)) <= WITHIN


@pytest.mark.parametrize("final", [0.0, 0.1])
def test_cosine_is_torchs(final: float) -> None:
    ours = [schedules.cosine(step, 20, final_factor=final) for step in range(20)]
    assert_close(ours, torch_rates(lambda each: lr_scheduler.CosineAnnealingLR(each, 20, eta_min=final), 20))
    assert schedules.cosine(20, 20, final_factor=final) == pytest.approx(final)
    assert schedules.cosine(25, 20, final_factor=final) == pytest.approx(final)  # and stays there


def test_step_decay_is_torchs() -> None:
    ours = [schedules.step_decay(step, [4, 9], 0.3) for step in range(15)]
    assert_close(ours, torch_rates(lambda each: lr_scheduler.MultiStepLR(each, [4, 9], gamma=0.3), 15))


def test_warm_up_is_torchs() -> None:
    def linear(each: Any) -> Any:
        return lr_scheduler.LinearLR(each, start_factor=1 / 6, total_iters=5)

    assert_close([schedules.warmup(step, 5) for step in range(9)], torch_rates(linear, 9))


@pytest.mark.parametrize("warmup_epochs", [0.0, 1.5])
def test_the_same_rates_as_the_torch_engine(warmup_epochs: float) -> None:
    cosine = ScheduleConfig(name="cosine", warmup_epochs=warmup_epochs, final_fraction=0.05)
    warmup = round(warmup_epochs * 10)
    ours = [schedules.cosine(step, 60, warmup, 0.05) for step in range(60)]
    assert_close(ours, [factor_at(cosine, step, 60, 10) for step in range(60)])
    step = ScheduleConfig(name="step", warmup_epochs=warmup_epochs, step_epochs=(3, 5), step_factor=0.1)
    ours = [schedules.step_decay(number, [30, 50], 0.1, warmup) for number in range(60)]
    assert_close(ours, [factor_at(step, number, 60, 10) for number in range(60)])


@pytest.mark.parametrize("call", [lambda: schedules.warmup(-1, 3), lambda: schedules.cosine(0, 3, warmup_steps=-1)])
def test_negative_steps_are_refused(call: Any) -> None:
    with pytest.raises(ValueError, match="expected numbers of at least 0"):
        call()


# Start values -------------------------------------------------------------------------------------------------------

SHAPE = (96, 64, 3, 3)
FAN_IN, FAN_OUT = 64 * 9, 96 * 9


def test_fans_are_torchs() -> None:
    for shape in (SHAPE, (10, 7), (8, 1, 5, 5)):
        assert initialise.fans(shape) == nn.init._calculate_fan_in_and_fan_out(torch.empty(shape))


@pytest.mark.parametrize(
    ("draw", "variance", "uniform"),
    [
        (initialise.he_normal, 2 / FAN_IN, False),
        (lambda *args: initialise.he_normal(*args, mode="fan_out"), 2 / FAN_OUT, False),
        (initialise.he_uniform, 2 / FAN_IN, True),
        (lambda *args: initialise.he_uniform(*args, mode="fan_out"), 2 / FAN_OUT, True),
        (initialise.xavier_uniform, 2 / (FAN_IN + FAN_OUT), True),
        (initialise.xavier_normal, 2 / (FAN_IN + FAN_OUT), False),
        (initialise.torch_default, 1 / (3 * FAN_IN), True),
    ],
)
def test_variance_and_form(draw: Any, variance: float, uniform: bool) -> None:
    weights = draw(SHAPE, np.random.default_rng(0))
    assert weights.dtype == np.float32
    assert weights.shape == SHAPE
    numbers = weights.size
    assert abs(weights.mean()) < 5 * math.sqrt(variance / numbers)
    assert weights.var() == pytest.approx(variance, rel=5 * math.sqrt(2 / numbers))
    largest = float(np.abs(weights).max()) / math.sqrt(variance)
    assert (1.72 < largest <= math.sqrt(3) + 1e-6) if uniform else largest > 3.5


def test_start_values_of_layers_are_torchs() -> None:
    """The same interval, for weights and biases: uniform up to 1 / sqrt(fan_in)."""
    for ours, theirs in (
        (Conv2d(32, 64, 3, groups=2, rng=np.random.default_rng(0)), nn.Conv2d(32, 64, 3, groups=2)),
        (Linear(100, 80, rng=np.random.default_rng(0)), nn.Linear(100, 80)),
    ):
        for name, parameter in ours.named_parameters():
            other = dict(theirs.named_parameters())[name].detach().numpy()
            assert parameter.data.dtype == other.dtype
            bound = 1 / math.sqrt(math.prod(theirs.weight.shape[1:]))
            for numbers in (parameter.data, other):
                assert 0.9 * bound < np.abs(numbers).max() <= bound * (1 + 1e-6)


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
def test_networks_start_as_the_torch_engine_starts_them(mode: str) -> None:
    network = Sequential(Conv2d(16, 64, 3), BatchNorm2d(64), ReLU(), Linear(64, 400))
    twin = nn.Sequential(nn.Conv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Linear(64, 400))
    for ours, theirs in (
        (
            lambda: initialise.initialise_he(network, np.random.default_rng(0), mode),
            lambda: torch_start.initialise_he(twin, mode=mode),
        ),
        (
            lambda: initialise.initialise_xavier(network, np.random.default_rng(0)),
            lambda: torch_start.initialise_xavier(twin),
        ),
    ):
        ours()
        theirs()
        state = twin.state_dict()
        for name, parameter in network.named_parameters():
            expected = state[name].numpy()
            if expected.std() == 0:
                assert np.array_equal(parameter.data, expected), name
            else:
                assert parameter.data.std() == pytest.approx(expected.std(), rel=0.05), name


def test_the_first_loss_of_a_classifier_is_the_logarithm_of_the_classes() -> None:
    from convcraft.scratch.losses import cross_entropy
    from convcraft.scratch.networks.resnet_cifar import ResNetCifar

    images = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    loss = cross_entropy(ResNetCifar(rng=np.random.default_rng(0))(images), np.arange(8))
    assert float(loss) == pytest.approx(math.log(10), abs=0.1)


def test_an_unknown_fan_is_refused() -> None:
    with pytest.raises(ValueError, match="mode='fan'; expected fan_in or fan_out"):
        initialise.he_normal((3, 4), np.random.default_rng(0), mode="fan")
