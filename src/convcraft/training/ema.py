"""A moving average of the weights: often better than the last weights, and free at prediction time."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class WeightAverage:
    """Exponential moving average of a model's parameters; buffers (batch-norm statistics) are averaged likewise.

    The decay warms up as (1 + t) / (10 + t), so that the first random weights are soon forgotten.

    Args:
        model: the network that trains; the average starts as its copy.
        decay: share of the old average kept at each step, near 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        # The tensors themselves, collected once: they are changed in place for the whole run.
        self._blended = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Blend in the weights after optimiser step `step` (0 is the first)."""
        blend = get_ema_multi_avg_fn(min(self.decay, (1 + step) / (10 + step)))
        blend([average for average, _ in self._blended], [current for _, current in self._blended], None)
        for average, current in self._copied:
            average.copy_(current)
