"""Quantisation-aware training: a network learns on with weights and maps rounded as its int8 exports round them.

In every forward pass layers see weights of 255 steps per output channel and inputs of 256 steps per tensor; sums and
joinings read such maps too. The gradient passes the rounding as if it were not there (straight-through: Bengio et al.
2013, arXiv:1308.3432; for integer networks: Jacob et al. 2018, arXiv:1712.05877). What optimisers move stays float32.

Batch norms are not folded here. Folding multiplies the weights of each output channel by one number, and the steps of
that channel with them: rounded before or after, the same integers come out.

Ranges of maps are the least and largest value of the batch. Exports take those of their calibration images and cut
nothing off there either. No range is kept between steps, as moving averages would be: what is rounded follows from
weights and images alone, and a run that was stopped goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from convcraft.deploy.compress.rounded_passes import rounded_passes
from convcraft.deploy.compress.rounding import WEIGHT_STEPS, rounded_activations, rounded_weights, weight_steps

MOVING_SHARE = 0.75  # of the epochs; afterwards batch norms keep the statistics that they have by then


@dataclass
class Int8Training:
    """Two hooks of the loop, and the rounding that is there while it runs.

    Args:
        network: that trains. epochs, steps: of the whole training. first_epoch: from which on it rounds.
    """

    network: nn.Module
    epochs: int
    steps: int
    first_epoch: int = 0
    _on: bool = field(default=False, init=False)

    def before_epoch(self, epoch: int) -> None:
        """Late in training batch norms are left alone: their statistics would follow every weight that goes back and
        forth between two steps, and evaluation takes the last ones (Krishnamoorthi 2018, arXiv:1806.08342)."""
        self._on = epoch >= self.first_epoch
        if epoch >= math.ceil(MOVING_SHARE * self.epochs):
            for module in self.network.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()

    def after_step(self, step: int) -> None:
        """The last step leaves weights on the grid, so that the result is what was trained for, in float32 too."""
        if step == self.steps:
            round_weights(self.network)

    @contextmanager
    def rounding(self) -> Iterator[None]:
        """While it lasts, the network's forward passes round, in training and in evaluation."""
        with rounded_passes(
            self.network,
            lambda weight: straight_through_weights(weight) if self._on else weight,
            lambda _position, values: rounded_activations(values, *values.detach().aminmax()) if self._on else values,
        ):
            yield


def straight_through_weights(weight: Tensor) -> Tensor:
    """`rounded_weights`, with the gradient of what was given."""
    steps = weight_steps(weight.detach())
    zeros = torch.zeros_like(steps, dtype=torch.int32)
    return torch.fake_quantize_per_channel_affine(weight, steps, zeros, 0, -WEIGHT_STEPS, WEIGHT_STEPS)


@torch.no_grad()
def round_weights(network: nn.Module) -> None:
    """The weights of convolutions and linear layers to their 255 steps, in place; zeros stay 0.0."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.copy_(rounded_weights(layer.weight) + 0.0)  # + 0.0: of -0.0, too
