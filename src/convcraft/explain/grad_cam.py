"""Grad-CAM: a layer's maps, each weighted by how much the class score grows with it on the whole.

Selvaraju et al. 2017, "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
arXiv:1610.02391, equations 1 and 2.
"""

from __future__ import annotations

from torch import Tensor, nn

from convcraft.explain.heat_maps import HeatMaps, resized, scaled
from convcraft.explain.target_layer import maps_and_gradients


def grad_cam(model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None) -> HeatMaps:
    """Where the layer's maps, weighted by their mean gradients, speak for the class; what speaks against it is cut off.

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
    weights = gradients.mean(dim=(2, 3), keepdim=True)  # [B, C, 1, 1], equation 1
    support = (weights * maps).sum(dim=1).relu()  # [B, h, w], equation 2
    return scaled(resized(support, (images.shape[2], images.shape[3])))
