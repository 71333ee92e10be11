"""One batch through a copy of a network, forward and backward, with what every layer saw: the ground of all verdicts.

Nothing of the network itself is touched: layers run in a copy, gradients are returned and not stored, random state is
put back.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from convcraft.training import random_state

LossFunction = Callable[[Tensor, Tensor], Tensor]
_Seen = tuple[tuple[int, ...], bool, bool]

# What networks and losses raise when shapes, types or devices do not fit.
MISFITS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)
WEIGHTED = (nn.Linear, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase)
COMPARED = 4  # images, to see whether a layer's outputs differ between them
GLANCE = 1024  # numbers of each, in which they mostly differ already
SAME = 1e-6  # outputs that differ by less than this share of their size are the same for all images


@dataclass(frozen=True)
class LayerCall:
    """One use of a layer; shapes are those of its first tensor and of its result, () where that is no tensor."""

    name: str
    module: nn.Module
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    finite: bool
    input_varies: bool  # from image to image
    output_varies: bool

    @property
    def label(self) -> str:
        """layer conv1 (Conv2d)."""
        return label(self.name, self.module)


@dataclass
class Trace:
    """What one batch in training mode showed of a copy of the network.

    gradients: of every trainable parameter, None where the loss does not depend on it; empty without a loss.
    failed_in: the layer inside which the forward pass stopped, with the shape that reached it; None between layers.
    """

    network: nn.Module
    images: Tensor
    calls: list[LayerCall] = field(default_factory=list)
    outputs: Any = None
    error: Exception | None = None
    failed_in: LayerCall | None = None
    loss: Tensor | None = None
    loss_error: Exception | None = None
    gradients: dict[str, Tensor | None] = field(default_factory=dict)


def label(name: str, module: nn.Module) -> str:
    return f"layer {name} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"


@contextmanager
def undisturbed() -> Iterator[None]:
    """Random state (Python, NumPy, torch) as it was afterwards; inside it begins at a fixed seed, without warnings."""
    before = random_state.capture()
    random_state.seed_all(0)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        random_state.restore(before)


def copied(model: nn.Module) -> nn.Module:
    """A copy that shares no tensor with the network, nor gradients. Raises what `copy.deepcopy` raises."""
    twin = copy.deepcopy(model)
    twin.zero_grad(set_to_none=True)
    return twin


def run_batch(twin: nn.Module, images: Tensor, targets: Tensor, loss: LossFunction) -> Trace:
    """Forward and backward in training mode.

    Args:
        twin: a copy of the network; its batch-norm statistics move.
        images: float32 [B, C, H, W], as the network is to see them.
        targets: what the loss takes beside the outputs.
        loss: (outputs, targets) -> scalar.
    """
    twin.train()
    trace = Trace(twin, images)
    with _listening(twin, trace) as entered, torch.enable_grad():
        try:
            trace.outputs = twin(images)
        except MISFITS as error:
            trace.error = error
            trace.failed_in = entered[-1] if entered else None
            return trace
    if isinstance(trace.outputs, Tensor):
        _take_loss(twin, trace, targets, loss)
    return trace


def _take_loss(twin: nn.Module, trace: Trace, targets: Tensor, loss: LossFunction) -> None:
    with torch.enable_grad():
        try:
            trace.loss = loss(trace.outputs, targets)
        except MISFITS as error:
            trace.loss_error = error
            return
    trained = {name: parameter for name, parameter in twin.named_parameters() if parameter.requires_grad}
    gradients: tuple[Tensor | None, ...] = (None,) * len(trained)
    if trained and isinstance(trace.loss, Tensor) and trace.loss.requires_grad and trace.loss.numel() == 1:
        gradients = torch.autograd.grad(trace.loss, list(trained.values()), allow_unused=True)
    trace.gradients = dict(zip(trained, gradients, strict=True))


@contextmanager
def _listening(twin: nn.Module, trace: Trace) -> Iterator[list[LayerCall]]:
    """Record every layer's calls; yields the layers that were entered and not yet left, innermost last."""
    entered: list[LayerCall] = []
    last: tuple[Tensor, int, _Seen] | None = None  # mostly, a layer gets what the one before it gave

    def look(value: Any) -> _Seen:
        nonlocal last
        if last is not None and value is last[0] and value._version == last[1]:
            return last[2]
        seen = _seen(value)
        counted = isinstance(value, Tensor) and not value.is_inference()  # else changes in place could pass unseen
        last = (value, value._version, seen) if counted else None
        return seen

    def enter(name: str) -> Callable[[nn.Module, Any], None]:
        def note(module: nn.Module, inputs: Any) -> None:
            shape, varies, _ = look(inputs[0] if inputs else None)
            entered.append(LayerCall(name, module, shape, (), True, varies, True))

        return note

    def leave(module: nn.Module, _inputs: Any, output: Any) -> None:
        begun = entered.pop()
        shape, varies, finite = look(output)
        trace.calls.append(LayerCall(begun.name, module, begun.input_shape, shape, finite, begun.input_varies, varies))

    handles = []
    for name, module in twin.named_modules():
        if is_layer(module):
            handles += [module.register_forward_pre_hook(enter(name)), module.register_forward_hook(leave)]
    try:
        yield entered
    finally:
        for handle in handles:
            handle.remove()


def is_layer(module: nn.Module) -> bool:
    """Whether a module computes by itself: it has no parts, or weights of its own, or is a convolution, linear or norm
    layer (whose weights a parametrisation may have moved into a part)."""
    own = any(True for _ in module.parameters(recurse=False))
    return own or isinstance(module, WEIGHTED) or next(module.children(), None) is None


@torch.no_grad()
def _seen(value: Any) -> _Seen:
    """Shape, whether images differ in it, whether it is finite; ((), True, True) where it is no tensor."""
    if not isinstance(value, Tensor) or value.ndim == 0 or value.numel() == 0:
        return (), True, True
    if not value.is_floating_point() or len(value) < 2:
        return tuple(value.shape), True, bool(torch.isfinite(value).all())
    # A sum of finite numbers may be infinite, but rarely is: only then are they looked at one by one, which takes long.
    finite = bool(torch.isfinite(value.sum())) or bool(torch.isfinite(value).all())
    few = value[:COMPARED].flatten(1)
    least = SAME * _size(few)
    varies = not finite or any(_size(some[1:] - some[:1]) > least for some in (few[:, :GLANCE], few))
    return tuple(value.shape), varies, finite


def _size(values: Tensor) -> float:
    """Of the largest number, without a copy of absolute values."""
    least, most = torch.aminmax(values)
    return max(-float(least), float(most))
