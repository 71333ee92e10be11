"""LayerCAM: each place of a map is weighted by its own gradient, so that early, fine layers can be drawn as well.

Jiang et al. 2021, "LayerCAM: Exploring Hierarchical Class Activation Maps for Localization", IEEE TIP 30, equations 6
to 8. Without the paper's tanh scaling, which is meant for merging maps of several layers.
"""

from __future__ import annotations

from torch import Tensor, nn

from convcraft.explain.heat_maps import HeatMaps, resized, scaled
from convcraft.explain.target_layer import maps_and_gradients


def layer_cam(model: nn.Module, images: Tensor, targets: Tensor, *, layer: str | None = None) -> HeatMaps:
    """Where the layer's values, each weighted by its positive gradient, speak for the class.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: name of a layer with maps [B, C, h, w]; None for the last one. Earlier ones give finer maps.

    Returns:
        float32 [B, H, W] in 0..1, bilinear from h x w.

    Raises:
        UserError: see `target_layer.maps_and_gradients`.
    """
    maps, gradients = maps_and_gradients(model, images, targets, layer)
    support = (gradients.relu() * maps).sum(dim=1).relu()  # [B, h, w]
    return scaled(resized(support, (images.shape[2], images.shape[3])))
