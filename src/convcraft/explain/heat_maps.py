"""What the methods of this room share: heat maps, and a network that stands still while it is asked.

Every method is `method(model, images, targets, *, layer=None, ...) -> HeatMaps`. Signed attributions become heat maps
by `magnitude`; the methods that show support alone (the CAMs, occlusion) cut negative values off instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.evaluation.predictions import evaluating
from convcraft.training import random_state

HeatMaps: TypeAlias = NDArray[np.float32]  # [B, H, W] in 0..1, each map's largest value 1; 0 where nothing was found


def scaled(maps: Tensor) -> HeatMaps:
    """Each map divided by its own largest value.

    Args:
        maps: [B, H, W], 0 or more.

    Returns:
        float32 [B, H, W] in 0..1; a map of zeros stays zero.

    Raises:
        UserError: a value is NaN or infinite, so the network or an image is broken.
    """
    values = maps.detach().double()  # float32 gradients of a sure network can be as small as 1e-40
    broken = (~values.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if broken:
        fix = "Look for NaN or huge values in the network's weights and in the images."
        raise UserError(f"heat maps of images {broken[:5]} with NaN or infinite values", "finite values", fix)
    peaks = values.amax(dim=(1, 2), keepdim=True)
    shares = values / torch.where(peaks > 0, peaks, 1.0)
    result: HeatMaps = shares.cpu().numpy().astype(np.float32)
    return result


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [B, h, w] at the images' size [B, H, W], bilinear, pixel centres aligned (not corners)."""
    return nn.functional.interpolate(maps[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]


def magnitude(attributions: Tensor) -> Tensor:
    """Signed attributions [B, C, H, W] as maps [B, H, W]: absolute values, summed over the channels.

    A pixel that speaks against the class is as warm as one that speaks for it.
    """
    return attributions.abs().sum(dim=1)


@contextmanager
def standing(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and gradients on for a while; afterwards the network is as before, bit for bit.

    Meanwhile no parameter requires a gradient, so none gets a `.grad`, whatever is differentiated. Afterwards, and
    after an error, every module's training flag, every parameter's requires_grad, all buffers (batch norm's running
    statistics among them) and the random state of Python, NumPy and torch are what they were.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    state = random_state.capture()
    try:
        with evaluating(model), torch.inference_mode(False), torch.enable_grad():
            for parameter in learning:
                parameter.requires_grad_(False)
            yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
        with torch.no_grad():
            for module, name, buffer, before in buffers:
                module._buffers[name] = buffer.copy_(before)
        random_state.restore(state)


def check_request(images: Tensor, targets: Tensor) -> None:
    """
    Raises:
        UserError: images are not floating point [B, C, H, W] with B of 1 or more, or targets are not int64 [B].
    """
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        received = f"images are {images.dtype} {list(images.shape)}"
        raise UserError(received, "float32 [B, C, H, W], one image or more", "Pass one image as image[None].")
    if targets.dtype != torch.int64 or targets.shape != images.shape[:1]:
        received = f"targets are {targets.dtype} {list(targets.shape)} for {len(images)} images"
        fix = "Pass one class index for each image, for instance logits.argmax(dim=1)."
        raise UserError(received, f"int64 [{len(images)}]", fix)


def refuse_layer(method: str, layer: str | None) -> None:
    """
    Raises:
        UserError: a layer was named for a method that looks at pixels only.
    """
    if layer is not None:
        fix = "Leave the layer away, or choose grad-cam, grad-cam++, layer-cam or score-cam."
        raise UserError(f"{method} with layer {layer!r}", f"no layer: {method} looks at pixels", fix)


def check_count(name: str, value: int) -> None:
    """
    Raises:
        UserError: a setting that counts something is below 1.
    """
    if value < 1:
        raise UserError(f"{name} {value}", "1 or more", f"Leave {name} away for its default.")


def class_scores(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each image's class, [B].

    Args:
        logits: [B, K].
        targets: int64 [B], 0..K-1.

    Raises:
        UserError: the network does not answer with [B, K], or a target is no class of it.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(targets):
        received = f"the network answered with {list(logits.shape) if isinstance(logits, Tensor) else type(logits)}"
        raise UserError(received, f"logits [{len(targets)}, K]", "Explain a network that classifies whole images.")
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0 or highest >= logits.shape[1]:
        received = f"targets from {lowest} to {highest} for a network of {logits.shape[1]} classes"
        raise UserError(received, f"0..{logits.shape[1] - 1}", "Pass indices of classes, counted from 0.")
    chosen = targets.detach().clone().to(logits.device)  # a tensor of inference mode could not enter the graph
    return logits.gather(1, chosen[:, None])[:, 0]


def pixel_gradients(model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
    """The gradient of each image's class score by its pixels, [B, C, H, W]; call it while the model is `standing`.

    Raises:
        UserError: as in `class_scores`, or no gradient reaches the pixels.
    """
    leaf = images.detach().clone().requires_grad_()
    scores = class_scores(model(leaf.clone()), targets)  # a copy: the first layer may work in place
    gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    if gradient is None:
        fix = "Take torch.no_grad and detach out of its forward, or choose occlusion, which needs no gradient."
        raise UserError("no gradient reaches the images", "a network that can be differentiated", fix)
    return gradient


@torch.no_grad()
def scores_of_variants(model: nn.Module, batches: Iterable[Tensor], target: Tensor) -> Tensor:
    """The score of one class for many changed copies of one image, [N]; call it while the model is `standing`.

    Args:
        batches: of copies [n, C, H, W], not needed afterwards: the network may change them in place.
        target: int64 [1].
    """
    return torch.cat([class_scores(model(batch), target.expand(len(batch))) for batch in batches])


def baseline_of(images: Tensor, baseline: Tensor | None) -> Tensor:
    """What a pixel is replaced by to take its information away: [B, C, H, W].

    Args:
        images: float32 [B, C, H, W], normalised.
        baseline: of any shape that can be broadcast to the images'; None for zeros, the mean colour of the training
            images. Black is `-mean / std` of the preprocessing, as [C, 1, 1].

    Raises:
        UserError: the shapes do not go together.
    """
    if baseline is None:
        return torch.zeros_like(images)
    try:
        return baseline.detach().to(images).expand_as(images)
    except RuntimeError as error:
        received = f"baseline of shape {list(baseline.shape)} for images {list(images.shape)}"
        fix = "One colour is [C, 1, 1], one image [C, H, W]; None is the mean colour."
        raise UserError(received, "a shape that can be broadcast to the images'", fix) from error
