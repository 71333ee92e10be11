"""What the first convolution makes of an image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.feature_maps import feature_maps
from convcraft.explain.target_layer import output_shapes


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
    image = image.to(next(model.parameters(), image).device)
    modules = dict(model.named_modules())
    ran = [layer for layer in output_shapes(model, image) if isinstance(modules[layer], nn.Conv2d)]
    if not ran:
        raise UserError(f"{type(model).__name__} runs no Conv2d", "a convolutional network", "Leave feature maps out.")
    return ran[0], feature_maps(model, image, ran[0])
