"""What the first convolution makes of an image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.evaluation.predictions import evaluating


def first_layer_maps(model: nn.Module, image: Tensor) -> tuple[str, NDArray[np.float32]]:
    """The output of the first convolution that runs, before any normalisation or ReLU.

    The model stays as it was: weights, running statistics, training flags; no hook remains.

    Args:
        image: float32 [1, C, H, W], normalised as for the model.

    Returns:
        the layer's name ("features.0") and its maps, float32 [C', h, w], signed.

    Raises:
        UserError: more than one image, or a model in which no Conv2d runs.

        >>> name, maps = first_layer_maps(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU()), torch.zeros(1, 1, 28, 28))
        >>> name, maps.shape
        ('0', (6, 24, 24))
    """
    if image.ndim != 4 or len(image) != 1:
        raise UserError(f"images of shape {list(image.shape)}", "one image [1, C, H, W]", "Pass images[:1].")
    seen: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(_recorder(name, seen))
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    ]
    weight = next(model.parameters(), image)
    try:
        with evaluating(model), torch.inference_mode():
            model(image.to(weight.device))
    finally:
        for handle in handles:
            handle.remove()
    if not seen:
        raise UserError(f"{type(model).__name__} runs no Conv2d", "a convolutional network", "Leave feature maps out.")
    name, maps = seen[0]
    return name, maps[0].float().cpu().numpy()


def _recorder(name: str, seen: list[tuple[str, Tensor]]) -> Any:
    """A forward hook that keeps the output of the convolution that runs first, whichever was defined first."""

    def record(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not seen:
            seen.append((name, output.detach().clone()))  # an in-place ReLU would change it otherwise

    return record
