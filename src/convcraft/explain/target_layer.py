"""The layer that a class activation map is drawn from: which one, its maps, and the class score's gradient by them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.heat_maps import check_request, class_scores, standing

LAYOUT_FACTOR = 1.5  # the sides of a map may be off the image's aspect by this factor before its layout is doubted
# Adaptive pools have a grid that is a setting, not a place in the image; the others repeat the layer before them.
PASSED_OVER = (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Identity, nn.Dropout, nn.Dropout2d)
PIXEL_METHODS = "integrated-gradients, smooth-grad or occlusion, which need no layer"  # for advice in errors


def target_layer(model: nn.Module, images: Tensor, name: str | None = None) -> tuple[str, nn.Module]:
    """The named layer, or the last one whose output is a map of the image.

    Last in the order in which layers finish in a forward pass; of layers with the same output (an activation, its
    block, its stage) that is the outermost. Maps of 1x1 are taken only where there are no larger ones. Adaptive
    pooling, dropout and identities are passed over.

    Args:
        images: float32 [B, C, H, W], normalised; the first one is sent through.
        name: as in `model.named_modules()`, for instance "layer4" or "features.28".

    Returns:
        name, module. The module's output is [B, C, h, w].

    Raises:
        UserError: there is no such layer, its output is no such map, or the network has none at its end: transformers
            that answer with tokens [B, N, C] or with channels last [B, h, w, C] are told apart and named.
    """
    modules = {path: module for path, module in model.named_modules() if path}
    if name is not None and name not in modules:
        near = difflib.get_close_matches(name, modules, n=5, cutoff=0.4) or list(modules)[-5:]
        raise UserError(f"layer {name!r}", "the name of a layer of this network", f"Close names: {', '.join(near)}.")
    shapes = output_shapes(model, images)
    size = (images.shape[2], images.shape[3])
    maps: dict[str, tuple[int, ...]] = {
        path: shape
        for path, shape in shapes.items()
        if len(shape) == 4 and shape[0] == 1 and not isinstance(modules[path], PASSED_OVER)
    }
    chosen = _last_map(modules, shapes, maps) if name is None else name
    if chosen not in shapes:
        fix = f"Choose a layer that does, for instance {list(maps)[-1]}." if maps else f"Choose {PIXEL_METHODS}."
        raise UserError(f"layer {chosen!r} gives no tensor in a forward pass", "a layer with one output", fix)
    shape = shapes[chosen]
    if len(shape) != 4 or shape[0] != 1:
        found = ", ".join(list(maps)[-3:])
        fix = f"Layers with maps: {found}." if maps else f"Choose {PIXEL_METHODS}."
        raise UserError(f"layer {chosen!r} answers one image with {list(shape)}", "a map [1, C, h, w]", fix)
    if _is_channels_last(modules[chosen], shape, size):
        fix = f"Choose {PIXEL_METHODS}."
        raise UserError(f"layer {chosen!r} answers with {list(shape)}, channels last", "a map [1, C, h, w]", fix)
    return chosen, modules[chosen]


def output_shapes(model: nn.Module, images: Tensor) -> dict[str, tuple[int, ...]]:
    """Layer -> shape of its output for the first image, in the order in which layers finish.

    Layers that do not run or do not give one tensor are left out; one that runs more often is read at its last run.
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(path: str, output: object) -> None:
        shapes.pop(path, None)  # so that the last run decides about the order too
        if isinstance(output, Tensor):
            shapes[path] = tuple(output.shape)

    handles = [
        module.register_forward_hook(lambda _module, _inputs, output, path=path: note(path, output))
        for path, module in model.named_modules()
        if path
    ]
    try:
        with standing(model), torch.no_grad():
            model(images[:1].detach().clone())
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def _last_map(
    modules: dict[str, nn.Module], shapes: dict[str, tuple[int, ...]], maps: dict[str, tuple[int, ...]]
) -> str:
    """The last layer with a map, with one larger than 1x1 if there is any."""
    if not maps:
        fix = f"Choose {PIXEL_METHODS}."
        raise UserError("no layer of this network gives a map [B, C, h, w]", "a convolutional network", fix)
    large = [path for path, shape in maps.items() if shape[2] * shape[3] > 1]
    chosen = (large or list(maps))[-1]
    order = list(shapes)
    for path in order[order.index(chosen) + 1 :]:
        shape = shapes[path]
        if len(shape) == 3 and shape[1] > 1 and any(True for _ in modules[path].parameters()):
            received = f"after its last map ({chosen}) this network works on tokens ({path}: {list(shape)})"
            raise UserError(received, "a map [1, C, h, w] near the end", f"Name a layer, or choose {PIXEL_METHODS}.")
    return chosen


def _is_channels_last(module: nn.Module, shape: tuple[int, ...], size: tuple[int, int]) -> bool:
    """Whether [1, a, b, c] is h, w, C rather than C, h, w: by the layer's kind, else by the image's aspect ratio."""
    if isinstance(module, nn.Linear):
        return True
    if isinstance(module, nn.LayerNorm):  # timm's LayerNorm2d is one too, with channels first
        return module.normalized_shape[0] == shape[3] and module.normalized_shape[0] != shape[1]

    def mismatch(height: int, width: int) -> float:
        return abs(math.log(size[0] * width / (size[1] * height)))

    limit = math.log(LAYOUT_FACTOR)
    return 0 not in shape and mismatch(shape[1], shape[2]) <= limit < mismatch(shape[2], shape[3])


@contextmanager
def tapped(module: nn.Module, *, with_gradient: bool) -> Iterator[list[Tensor]]:
    """Collects what a layer gives in each of its runs, [B, C, h, w]; the hook is removed at the end.

    with_gradient: each is a leaf from which the rest of the network goes on, so that a gradient by it costs only the
    layers above. These get a copy, so that they may work in place.
    """
    outputs: list[Tensor] = []

    def tap(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        outputs.append(output.detach().clone().requires_grad_(with_gradient))
        return outputs[-1].clone()

    handle = module.register_forward_hook(tap, prepend=True)  # before a classifier that taps the layer too
    try:
        yield outputs
    finally:
        handle.remove()


def maps_and_gradients(
    model: nn.Module, images: Tensor, targets: Tensor, layer: str | None = None
) -> tuple[Tensor, Tensor]:
    """A layer's maps and the gradient of each image's class score by them.

    A layer that runs more than once is read at its last run.

    Args:
        images: float32 [B, C, H, W], normalised.
        targets: int64 [B].
        layer: name; None for the default of `target_layer`.

    Returns:
        maps [B, C, h, w] and gradients [B, C, h, w], both detached, float32 or float64.

    Raises:
        UserError: as in `target_layer` and `class_scores`, or the layer has no influence on the score.
    """
    check_request(images, targets)
    name, module = target_layer(model, images, layer)
    with standing(model), tapped(module, with_gradient=True) as outputs:
        scores = class_scores(model(images.detach().clone()), targets)
        maps = outputs[-1]
        gradients = torch.autograd.grad(scores.sum(), maps, allow_unused=True)[0] if scores.requires_grad else None
    if gradients is None:
        fix = "Name a layer on the way to the answer; take torch.no_grad and detach out of the layers above it."
        raise UserError(f"layer {name!r} has no gradient", "a layer that the class score depends on", fix)
    wide = torch.promote_types(maps.dtype, torch.float32)  # half precision is left before anything is summed
    return maps.detach().to(wide), gradients.to(wide)
