"""Start values: He's and Xavier's rules, and small ones for the classifier.

Both rules choose the variance of a layer's weights from its fans, so that signals (forward) or gradients (backward)
keep their size from layer to layer:

    fan_in  = inputs that one output sums  = in_channels / groups * kernel height * kernel width
    fan_out = outputs that one input feeds = out_channels / groups * kernel height * kernel width  (stride 1)

A linear layer has a 1x1 kernel. torch's own functions forget the groups in fan_out; here they count.
"""

from __future__ import annotations

import math

from torch import nn

from convcraft.errors import UserError

MODES = ("fan_in", "fan_out")
DISTRIBUTIONS = ("normal", "uniform")


def fans(layer: nn.Conv2d | nn.Linear) -> tuple[int, int]:
    """(fan_in, fan_out) of a layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    area = math.prod(layer.kernel_size)
    return layer.in_channels // layer.groups * area, layer.out_channels // layer.groups * area


def initialise_he(network: nn.Module, *, mode: str = "fan_in", distribution: str = "normal") -> None:
    """Start values for ReLU networks: every convolution and linear layer has variance 2 / fan, biases are 0.

    ReLU halves the mean square of what it lets through, the factor 2 restores it, so that signals keep their size from
    layer to layer. Batch norm keeps torch's start (weight 1, bias 0).

    Args:
        network: changed in place, in the order of its modules.
        mode: "fan_in" keeps the size of signals, "fan_out" that of gradients; either suffices (section 2.2).
        distribution: "normal", N(0, 2 / fan), or "uniform", U(-a, a) with a = sqrt(6 / fan).

    Raises:
        UserError: another mode or distribution.

    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv 1502.01852, eq. 10 (fan_in) and 14 (fan_out).
    """
    _check_choice("mode", mode, MODES)
    _check_choice("distribution", distribution, DISTRIBUTIONS)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            fan = fans(layer)[MODES.index(mode)]
            _fill(layer, math.sqrt(2.0) / math.sqrt(fan), distribution)


def initialise_xavier(network: nn.Module, *, distribution: str = "uniform") -> None:
    """Start values for tanh networks: every layer has variance 2 / (fan_in + fan_out), biases are 0.

    Args:
        network: changed in place, in the order of its modules.
        distribution: "uniform", U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), or "normal".

    Raises:
        UserError: another distribution.

    Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.
    """
    _check_choice("distribution", distribution, DISTRIBUTIONS)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            _fill(layer, math.sqrt(2.0 / float(sum(fans(layer)))), distribution)


def initialise_classifier(classifier: nn.Linear) -> None:
    """Small weights N(0, 0.01), bias 0: all classes begin equally likely, so the first loss is close to ln K."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)


def _fill(layer: nn.Conv2d | nn.Linear, std: float, distribution: str) -> None:
    if distribution == "normal":
        nn.init.normal_(layer.weight, 0.0, std)
    else:
        bound = math.sqrt(3.0) * std  # U(-a, a) has variance a^2 / 3
        nn.init.uniform_(layer.weight, -bound, bound)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UserError(f"{name} is {value!r}", " or ".join(choices), f"Pass another {name}.")
