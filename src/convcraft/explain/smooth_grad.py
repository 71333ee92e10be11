"""SmoothGrad: the gradient by the pixels, averaged over noisy copies of the image, so that its flicker cancels out.

Smilkov et al. 2017, "SmoothGrad: removing noise by adding noise", arXiv:1706.03825, section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.heat_maps import (
    HeatMaps,
    check_count,
    check_request,
    magnitude,
    pixel_gradients,
    refuse_layer,
    scaled,
    standing,
)


def smooth_grad(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    layer: str | None = None,
    num_samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
) -> HeatMaps:
    """Where a small change of a pixel changes the class score: absolute mean gradients, summed over the channels.

    The noise comes from a generator of its own and is the same for every image of a batch, so an image's map does not
    depend on the images beside it.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B], the class to explain for each image.
        layer: None; this method looks at pixels.
        num_samples: noisy copies; the paper sees little change beyond 50.
        noise: standard deviation as a share of the image's range (largest minus smallest value); the paper has 0.1
            to 0.2. With 0 the map is the plain gradient (Simonyan et al. 2014, arXiv:1312.6034).
        seed: of the noise.

    Returns:
        float32 [B, H, W] in 0..1.

    Raises:
        UserError: a layer is named, num_samples is below 1, noise below 0, or see `heat_maps.pixel_gradients`.
    """
    refuse_layer("smooth-grad", layer)
    check_request(images, targets)
    check_count("num_samples", num_samples)
    if not 0 <= noise < float("inf"):
        raise UserError(f"noise {noise}", "0 or more", "0.1 to 0.2 of the image's range are usual.")
    images = images.detach()
    sigma = noise * (images.amax(dim=(1, 2, 3), keepdim=True) - images.amin(dim=(1, 2, 3), keepdim=True))
    generator = torch.Generator().manual_seed(seed)
    with standing(model):
        total = torch.zeros_like(images)
        for _ in range(num_samples):
            draw = torch.randn(images.shape[1:], generator=generator).to(images)  # [C, H, W]
            total += pixel_gradients(model, images + sigma * draw, targets)
    return scaled(magnitude(total))
