"""Unstructured pruning: single weights become zero while training goes on, and stay zero.

Sparsity rises along a cubic curve, fast while many weights are spare and slow towards the end (Zhu, Gupta 2017,
arXiv:1710.01878, equation 1). Which weights go is decided over all layers at once by layer-adaptive magnitude: a
weight's square divided by the sum of squares of the weights of its layer that are at least as large (LAMP, Lee et al.
2021, arXiv:2010.07611). So no layer loses all.

Sparse weights make files smaller, not networks faster: common runtimes multiply by the zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

UPDATES = 50  # at most so many times do further weights become zero


def prunable_weights(model: nn.Module) -> list[Tensor]:
    """The weights of convolutions and linear layers; norms and biases stay."""
    return [module.weight for module in model.modules() if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear))]


def sparsity_of(weights: Sequence[Tensor]) -> float:
    """Share of zeros."""
    number = sum(weight.numel() for weight in weights)
    return 1 - sum(int(torch.count_nonzero(weight)) for weight in weights) / max(number, 1)


@torch.no_grad()
def set_least_to_zero(weights: Sequence[Tensor], sparsity: float) -> None:
    """Set weights to zero, the least important first, until this share of them all is zero.

    Weights that are zero already count and stay.

    Args:
        weights: changed in place. sparsity: 0..1.
    """
    wanted = round(sparsity * sum(weight.numel() for weight in weights))
    if wanted <= 0:
        return
    scores = torch.cat([_layer_adaptive(weight) for weight in weights])
    gone = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
    gone[torch.argsort(scores, stable=True)[:wanted]] = True
    for weight, part in zip(weights, gone.split([weight.numel() for weight in weights]), strict=True):
        weight[part.reshape(weight.shape)] = 0


def _layer_adaptive(weight: Tensor) -> Tensor:
    """LAMP scores of one layer: float32 [numel], 0..1; zeros score 0."""
    squares = weight.detach().float().reshape(-1).square()
    ordered, places = squares.sort(descending=True, stable=True)
    at_least_as_large = ordered.double().cumsum(0)
    scores = torch.empty_like(squares)
    scores[places] = (ordered / at_least_as_large.clamp_min(1e-300)).float()
    return scores


@dataclass
class GradualPruning:
    """Two hooks of the loop: `before_step` sees which weights are zero, `after_step` keeps them so and adds to them.

    Which weights are pruned is read off the weights themselves, so that a run that was stopped goes on exactly.

    Args:
        weights: of the network that trains. sparsity: at the end, 0..1.
        ramp_steps: optimiser steps over which it rises.
    """

    weights: Sequence[Tensor]
    sparsity: float
    ramp_steps: int
    _zero: list[Tensor] = field(default_factory=list)

    def before_step(self) -> None:
        self._zero = [weight.detach() == 0 for weight in self.weights]

    @torch.no_grad()
    def after_step(self, step: int) -> None:
        for weight, zero in zip(self.weights, self._zero, strict=True):
            weight.masked_fill_(zero, 0.0)
        every = max(1, self.ramp_steps // UPDATES)
        if step == self.ramp_steps or (step < self.ramp_steps and step % every == 0):
            set_least_to_zero(self.weights, self.sparsity_at(step))

    def sparsity_at(self, step: int) -> float:
        """Share of zeros after so many steps."""
        share_left = 1 - min(step / max(self.ramp_steps, 1), 1)
        return self.sparsity * (1 - share_left**3)
