"""What a network answers in int8, computed in float32 with weights and maps rounded: no runtime is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.data.preprocess import Preprocess
from convcraft.deploy.compress.int8_training import round_weights
from convcraft.deploy.compress.rounded_passes import rounded_passes
from convcraft.deploy.compress.rounding import BATCH_SIZE, layers_of, mean_rounding_errors, rounded_activations
from convcraft.deploy.export_network import ExportNetwork


class Int8Answers(nn.Module):
    """A network as its int8 exports compute it: batch norms folded, weights rounded, their mean errors taken off the
    biases, maps rounded between the least and largest values that calibration images give.

    Runtimes differ from it, and from each other, in what else they round (means, products) and in the order of sums.

    Args:
        model: in evaluation mode; it stays as it is. preprocess: of the run. images: [N, ...] to calibrate on.
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess, images: NDArray[np.generic]) -> None:
        super().__init__()
        self.network = ExportNetwork(model, preprocess)
        self._ranges: list[tuple[Tensor, Tensor]] = []
        errors = mean_rounding_errors(self.network, images)
        self._watch(images)
        for name, layer in layers_of(self.network).items():
            if name in errors:
                bias = torch.from_numpy(-errors[name])
                layer.bias = nn.Parameter(bias if layer.bias is None else layer.bias + bias, requires_grad=False)
        round_weights(self.network)

    def forward(self, images: Tensor) -> Any:
        """Logits, float32 [B, K]."""
        with rounded_passes(self.network, lambda weight: weight, self._rounded):
            return self.network(images)

    @torch.no_grad()
    def _watch(self, images: NDArray[np.generic]) -> None:
        """The range of each map that is read, over all images, by its place in the order of reading."""
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def note(position: int, values: Tensor) -> Tensor:
            least, largest = values.aminmax()
            if position in seen:
                least, largest = torch.minimum(least, seen[position][0]), torch.maximum(largest, seen[position][1])
            seen[position] = least, largest
            return values

        with rounded_passes(self.network, lambda weight: weight, note):
            for start in range(0, len(images), BATCH_SIZE):
                self.network(torch.from_numpy(np.ascontiguousarray(images[start : start + BATCH_SIZE])))
        self._ranges = [seen[position] for position in range(len(seen))]

    def _rounded(self, position: int, values: Tensor) -> Tensor:
        least, largest = self._ranges[position]
        return rounded_activations(values, least.to(values.device), largest.to(values.device))
