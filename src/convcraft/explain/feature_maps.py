"""What a layer makes of an image: one map per channel."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.heat_maps import standing
from convcraft.explain.target_layer import tapped, target_layer


def feature_maps(model: nn.Module, image: Tensor, layer: str) -> NDArray[np.float32]:
    """The output of a layer, before anything later changes it in place. The model stays as it was.

    Args:
        image: float32 [1, C, H, W], normalised as for the model.
        layer: name as in `model.named_modules()`, for instance "layer1.0.conv2". One that runs more than once is read
            at its last run.

    Returns:
        float32 [C', h, w], signed.

    Raises:
        UserError: more than one image, no such layer (close names are listed), or one whose output is no map
            [1, C', h, w]: tokens, rows, channels last.

        >>> feature_maps(nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU()), torch.zeros(1, 1, 28, 28), "0").shape
        (6, 24, 24)
    """
    if image.ndim != 4 or len(image) != 1:
        raise UserError(f"images of shape {list(image.shape)}", "one image [1, C, H, W]", "Pass images[:1].")
    weight = next(model.parameters(), image)
    image = image.to(weight.device)
    module = _map_layer(model, image, layer)
    with standing(model), torch.no_grad(), tapped(module, with_gradient=False) as outputs:
        model(image.detach().clone())
    maps: NDArray[np.float32] = outputs[-1][0].float().cpu().numpy()
    return maps


def _map_layer(model: nn.Module, image: Tensor, layer: str) -> nn.Module:
    """The named module; `target_layer` advises other methods where its output is no map, here another layer helps."""
    try:
        return target_layer(model, image, layer)[1]
    except UserError as error:
        if layer not in dict(model.named_modules()):
            raise
        fix = "Name a convolution, or the block that holds it."
        raise UserError(error.received, error.expected, fix) from error
