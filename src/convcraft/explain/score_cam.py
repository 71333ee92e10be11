"""Score-CAM: each map is laid over the image as a mask, and what the class then scores is its weight. No gradients.

Wang et al. 2020, "Score-CAM: Score-Weighted Visual Explanations for Convolutional Neural Networks", arXiv:1910.01279,
algorithm 1, with logits as scores. The score of the baseline image, which the paper subtracts, cancels out in the
softmax over the maps.

Where we deviate: of layers with more than `max_channels` maps, those are used whose values vary most over the places
(largest standard deviation); maps of one value everywhere mask nothing and have no weight.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convcraft.explain.heat_maps import (
    HeatMaps,
    check_count,
    check_request,
    class_scores,
    resized,
    scaled,
    scores_of_variants,
    standing,
)
from convcraft.explain.target_layer import tapped, target_layer


def score_cam(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None = None,
    max_channels: int = 256,
    batch_size: int = 32,
) -> HeatMaps:
    """Where the layer's maps show what the class is recognised by when all else is dimmed to the mean colour.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: name of a layer with maps [B, C, h, w]; None for the last one.
        max_channels: maps used at most, each of which costs a forward pass of a masked image (a ResNet-50 has 2,048).
        batch_size: masked images per forward pass.

    Returns:
        float32 [B, H, W] in 0..1, bilinear from h x w. All zero where no map varies (maps of 1x1).

    Raises:
        UserError: see `target_layer.target_layer`; max_channels or batch_size below 1.
    """
    check_request(images, targets)
    check_count("max_channels", max_channels)
    check_count("batch_size", batch_size)
    _, module = target_layer(model, images, layer)
    with standing(model):
        with tapped(module, with_gradient=False) as outputs, torch.no_grad():
            class_scores(model(images.detach().clone()), targets)  # refuses wrong targets before the long part
        maps = outputs[-1].to(torch.promote_types(outputs[-1].dtype, torch.float32))
        support = [
            _support(model, image, target, maps_of_image[_most_varied(maps_of_image, max_channels)], batch_size)
            for image, target, maps_of_image in zip(images.detach(), targets, maps, strict=True)
        ]
    return scaled(resized(torch.stack(support), (images.shape[2], images.shape[3])))


def _most_varied(maps: Tensor, most: int) -> Tensor:
    """Indices of the maps [C, h, w] that are not constant, in their order; where too many, those that vary most."""
    spreads = maps.flatten(1).std(dim=1, correction=0)
    varied = (maps.flatten(1).amax(dim=1) > maps.flatten(1).amin(dim=1)).nonzero()[:, 0]
    return varied[spreads[varied].argsort(descending=True, stable=True)[:most]].sort().values


def _support(model: nn.Module, image: Tensor, target: Tensor, maps: Tensor, batch_size: int) -> Tensor:
    """ReLU of the weighted sum of maps [C', h, w] of one image [C, H, W]: [h, w]."""
    if not len(maps):
        return maps.new_zeros(maps.shape[1:])

    def masked() -> Iterator[Tensor]:
        for some in maps.split(batch_size):
            masks = resized(some, (image.shape[1], image.shape[2]))  # [n, H, W]
            low, high = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
            masks = (masks - low) / torch.where(high > low, high - low, 1)
            yield image * masks[:, None].to(image.dtype)

    weights = scores_of_variants(model, masked(), target[None]).to(maps.dtype).softmax(dim=0)
    return torch.einsum("c,chw->hw", weights, maps).relu()
