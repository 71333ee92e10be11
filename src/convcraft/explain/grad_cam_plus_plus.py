"""Grad-CAM++: as Grad-CAM, but each place has a say in its map's weight, so that small and repeated objects count.

Chattopadhay et al. 2018, "Grad-CAM++: Generalized Gradient-based Visual Explanations for Deep Convolutional Networks",
arXiv:1710.11063, equations 5, 10 and 19: the score is exp(logit), whose higher derivatives are powers of the logit's
gradient g where the layers above are piecewise linear. exp(logit) itself is a factor of all weights and cancels out.

Where we deviate: the paper's maps come out of a ReLU. Of others (GELU, SiLU, linear) only the positive part enters the
sum in the denominator, which could be zero or negative otherwise.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convcraft.explain.heat_maps import HeatMaps, resized, scaled
from convcraft.explain.target_layer import maps_and_gradients


def grad_cam_plus_plus(model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None) -> HeatMaps:
    """Where the layer's maps, weighted by their positive gradients, speak for the class.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: name of a layer with maps [B, C, h, w]; None for the last one.

    Returns:
        float32 [B, H, W] in 0..1, bilinear from h x w.

    Raises:
        UserError: see `target_layer.maps_and_gradients`.
    """
    maps, gradients = maps_and_gradients(model, images, targets, layer)
    positive = gradients.relu()
    total = maps.relu().sum(dim=(2, 3), keepdim=True)  # [B, C, 1, 1]
    # Equation 19, g^2 / (2 g^2 + total g^3), with g^2 cancelled: small gradients would underflow in float32.
    shares = torch.where(positive > 0, 1 / (2 + total * positive), 0)  # [B, C, h, w]
    weights = (shares * positive).sum(dim=(2, 3), keepdim=True)  # [B, C, 1, 1], equation 5
    support = (weights * maps).sum(dim=1).relu()  # [B, h, w]
    return scaled(resized(support, (images.shape[2], images.shape[3])))
