"""Start values: their variance against the formulas, layer by layer, and what they do to signals in a deep network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from convcraft.errors import UserError
from convcraft.models.build import OWN_MODELS
from convcraft.models.initialise import fans, initialise_he, initialise_xavier

LAYERS = {
    "linear": (lambda: nn.Linear(400, 300), 400, 300),
    "conv 3x3": (lambda: nn.Conv2d(64, 128, 3), 64 * 9, 128 * 9),
    "conv 5x3": (lambda: nn.Conv2d(48, 96, (5, 3), stride=2, bias=False), 48 * 15, 96 * 15),
    "grouped": (lambda: nn.Conv2d(128, 256, 3, groups=4), 32 * 9, 64 * 9),
    "depthwise": (lambda: nn.Conv2d(1024, 2048, 5, groups=1024), 1 * 25, 2 * 25),
}
XAVIER = {"lenet5", "keras_cnn"}
TORCHS_OWN = {"seed_cnn"}  # keeps the article's start values
OWN_RULE = {"resnet9"}  # starts from identities, see its own tests
SIZE = {"lenet5": 28, "keras_cnn": 28, "alexnet": 64}


def check_variance(weight: torch.Tensor, variance: float) -> None:
    """Within 5 % of the formula; small layers are given the four standard errors of a normal sample's variance."""
    tolerance = max(0.05, 4 * math.sqrt(2 / weight.numel()))
    assert weight.double().square().mean().item() == pytest.approx(variance, rel=tolerance)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("distribution", ["normal", "uniform"])
@pytest.mark.parametrize("rule", ["he fan_in", "he fan_out", "xavier"])
def test_variance_follows_the_formula(rule: str, distribution: str, kind: str) -> None:
    make, fan_in, fan_out = LAYERS[kind]
    torch.manual_seed(0)
    layer = make()
    assert fans(layer) == (fan_in, fan_out)
    assert layer.weight.numel() >= 40_000  # enough for 5 % to be far outside of chance
    if rule == "xavier":
        variance = 2 / (fan_in + fan_out)
        initialise_xavier(layer, distribution=distribution)
    else:
        variance = 2 / (fan_in if rule.endswith("in") else fan_out)
        initialise_he(layer, mode=rule.split()[1], distribution=distribution)
    check_variance(layer.weight, variance)
    assert abs(layer.weight.mean().item()) < 4 * math.sqrt(variance / layer.weight.numel())
    assert layer.bias is None or not layer.bias.any()
    largest = layer.weight.abs().max().item() / math.sqrt(variance)
    assert largest <= math.sqrt(3) * 1.0001 if distribution == "uniform" else largest > 3.5


@pytest.mark.parametrize("groups", [1, 8])
def test_fans_keep_the_size_of_signals_and_of_gradients(groups: int) -> None:
    """What the formulas are for: He fan_in keeps the mean square forward, fan_out backward, grouped or not."""
    torch.manual_seed(0)
    conv = nn.Conv2d(64, 192, 3, padding=1, padding_mode="circular", groups=groups)
    signal = torch.relu(torch.randn(8, 64, 12, 12)) * math.sqrt(2)  # mean square 1, as after ReLU
    initialise_he(conv, mode="fan_in")
    assert conv(signal).square().mean().item() == pytest.approx(2, rel=0.1)
    initialise_he(conv, mode="fan_out")
    inputs = torch.zeros(8, 64, 12, 12, requires_grad=True)
    conv(inputs).backward(torch.randn(8, 192, 12, 12))
    assert inputs.grad.square().mean().item() == pytest.approx(2, rel=0.1)


def _quick_and_slow() -> list[Any]:
    """All networks with a rule; VGGs hold 120 million values in their linear layers, so only one of them is quick."""
    return [
        pytest.param(name, marks=pytest.mark.slow if name.startswith("vgg") and name[3:5].isdigit() else ())
        for name in OWN_MODELS
        if name not in OWN_RULE
    ]


@pytest.mark.parametrize("name", _quick_and_slow())
def test_every_network_has_the_start_values_that_it_claims(name: str) -> None:
    torch.manual_seed(0)
    side = SIZE.get(name, 32)
    model = OWN_MODELS[name](10, 3, (side, side))
    layers = [layer for layer in model.modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
    assert len(layers) >= 3
    for layer in layers:
        fan_in, fan_out = fans(layer)
        if name in TORCHS_OWN:
            check_variance(layer.weight, 1 / (3 * fan_in))  # U(-1 / sqrt(fan_in), 1 / sqrt(fan_in))
            continue
        if name in XAVIER:
            check_variance(layer.weight, 2 / (fan_in + fan_out))
        else:
            check_variance(layer.weight, 1e-4 if layer is model.get_classifier() else 2 / fan_in)
        assert layer.bias is None or not layer.bias.any()


def plain_relu_network(depth: int, width: int = 128) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1, padding_mode="circular"), nn.ReLU()]
    return nn.Sequential(*layers)


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_signals_keep_their_size_through_thirty_layers_only_with_the_right_start_values(distribution: str) -> None:
    """Mean squares of the last activations over those of the images; geometric mean of five draws of the weights."""
    network = plain_relu_network(depth=30)

    def growth(initialise: Callable[[nn.Module], None]) -> float:
        logarithms = []
        for seed in range(5):
            torch.manual_seed(seed)
            images = torch.randn(2, 128, 4, 4)
            initialise(network)
            with torch.no_grad():
                logarithms.append(math.log(network(images).double().square().mean() / images.square().mean()))
        return math.exp(sum(logarithms) / len(logarithms))

    def as_in_2012(network: nn.Module) -> None:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.01)
                nn.init.zeros_(layer.bias)

    assert 0.2 < growth(lambda network: initialise_he(network, distribution=distribution)) < 5
    # Half of He's variance in each of thirty layers: 2 ** -30. N(0, 0.01): (0.01 ** 2 * 128 * 9 / 2) ** 30.
    assert growth(lambda network: initialise_xavier(network, distribution=distribution)) < 2**-26
    assert growth(as_in_2012) < 1e-36


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda layer: initialise_he(layer, mode="fan"), "fan_in or fan_out"),
        (lambda layer: initialise_he(layer, distribution="cauchy"), "normal or uniform"),
        (lambda layer: initialise_xavier(layer, distribution=""), "normal or uniform"),
    ],
)
def test_unknown_rules_are_refused(call, expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        call(nn.Linear(2, 2))
