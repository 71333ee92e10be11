"""The way forward: where a batch stopped, mixed its images, or saw maps too small for its kernels."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from convcraft.data.sample import Finding
from convcraft.doctor.preflight_finding import error, some, times, warning
from convcraft.doctor.preflight_trace import MISFITS, LayerCall, Trace, label
from convcraft.errors import first_line

WINDOWED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.MaxPool2d, nn.AvgPool2d, nn.LPPool2d)
ROUNDING = 1e-3  # outputs that differ by more than this share of their size differ by more than rounding


def stop_findings(trace: Trace) -> Iterator[Finding]:
    """A forward pass that stopped: the layer, what reached it, and how to make it fit."""
    if trace.error is None:
        return
    first = first_line(trace.error)
    call = trace.failed_in
    if call is not None and isinstance(call.module, nn.Linear) and call.input_shape:
        yield _linear_finding(trace, call.name, call.module, call.input_shape[-1])
    elif call is not None and isinstance(call.module, WINDOWED) and call.input_shape:
        yield _window_finding(trace, call, first)
    elif call is not None:
        reached = f"an input of {times(call.input_shape)}" if call.input_shape else "its input"
        yield error(f"{call.label} stops on {reached}: {first}", "Let it expect what the layer before it makes.")
    elif (waiting := _next_linear(trace)) is not None:
        yield _linear_finding(trace, *waiting)
    else:
        after = f"after {trace.calls[-1].label}" if trace.calls else "before the first layer"
        images = times(tuple(trace.images.shape))
        yield error(f"the network stops {after} on images {images}: {first}", "Let each layer fit the one before it.")


def _next_linear(trace: Trace) -> tuple[str, nn.Linear, int] | None:
    """The first linear layer that did not run, where an image has another number of features than it expects."""
    if not trace.calls or len(trace.calls[-1].output_shape) < 2:
        return None
    ran = {call.name for call in trace.calls}
    features = math.prod(trace.calls[-1].output_shape[1:])
    for name, module in trace.network.named_modules():
        if isinstance(module, nn.Linear) and name not in ran:
            return (name, module, features) if module.in_features != features else None
    return None


def _linear_finding(trace: Trace, name: str, linear: nn.Linear, features: int) -> Finding:
    """A linear layer that expects another number of features than an image has."""
    maps = [call for call in trace.calls if len(call.output_shape) == 4]
    shape = maps[-1].output_shape[1:] if maps and math.prod(maps[-1].output_shape[1:]) == features else (features,)
    made = times(shape) + (f" = {features:,}" if len(shape) > 1 else "")
    by = f" after {maps[-1].label}" if maps and len(shape) > 1 else ""
    message = f"{label(name, linear)} expects {linear.in_features:,} features, an image has {made}{by}"
    fix = f"Flatten with x.flatten(1), and give {name} {features:,} inputs."
    return error(f"{message}: a wrong flatten.", fix)


def _window_finding(trace: Trace, call: LayerCall, first: str) -> Finding:
    """A convolution or pooling that its maps do not fit: too few pixels, other channels, or channels last."""
    shape, module = call.input_shape, call.module
    if isinstance(module, nn.Conv2d) and len(shape) == 4 and shape[1] != module.in_channels:
        message = f"{call.label} expects {module.in_channels} channels, but gets {shape[1]} (maps {times(shape)})."
        if shape[-1] == module.in_channels and not trace.calls:
            return error(message, "These images are [B, H, W, C]: use images.permute(0, 3, 1, 2).")
        return error(message, f"Give it {shape[1]} input channels, or other images.")
    if len(shape) == 4 and ("size" in first.lower()):
        way = " -> ".join(_sides_on_the_way(trace, call))
        message = f"{call.label} sees maps of {times(shape[2:])}, smaller than its window. The way there: {way}."
        return error(message, "Pad the convolutions (padding=1 for 3x3), leave a pooling out, or use larger images.")
    return error(f"{call.label} stops on {times(shape)}: {first}", "Let it expect what the layer before it makes.")


def _sides_on_the_way(trace: Trace, last: LayerCall) -> Iterator[str]:
    """Heights and widths of the maps, each once in a row."""
    shapes = [tuple(trace.images.shape), *(call.input_shape for call in trace.calls), last.input_shape]
    before = None
    for shape in shapes:
        if len(shape) == 4 and shape[2:] != before:
            before = shape[2:]
            yield times(before)


def row_findings(trace: Trace) -> Iterator[Finding]:
    """Other than one row of outputs for each image: a flatten that moved the border between images."""
    images = len(trace.images)
    if not isinstance(trace.outputs, Tensor) or (trace.outputs.ndim > 0 and len(trace.outputs) == images):
        return
    rows = len(trace.outputs) if trace.outputs.ndim else 0
    call = next((c for c in trace.calls if c.input_shape and c.input_shape[0] != images), None)
    if call is None or not isinstance(call.module, nn.Linear) or not rows:
        shape = times(tuple(trace.outputs.shape)) or "a single number"
        fix = f"Keep the first axis: one row for each image, [{images}, K]."
        yield error(f"{images} images give {shape}, from {_before(trace, call)}.", fix)
        return
    features = call.input_shape[0] * math.prod(call.input_shape[1:]) // images
    found = _linear_finding(trace, call.name, call.module, features)
    yield error(f"{found.message} {images} images become {rows} rows, each of parts of several.", found.fix)


def _before(trace: Trace, call: LayerCall | None) -> str:
    return call.label if call is not None else (trace.calls[-1].label if trace.calls else "the network")


def wasted_window_findings(trace: Trace) -> Iterator[Finding]:
    """Convolutions that see maps of one pixel: all but one of a kernel's weights only ever meet padding."""
    wasted = [
        call
        for call in trace.calls
        if isinstance(call.module, nn.Conv2d)
        and len(call.input_shape) == 4
        and call.input_shape[2:] == (1, 1)
        and min(call.module.kernel_size) > 1
        and call.module.weight.requires_grad
    ]
    if wasted:
        first = wasted[0]
        assert isinstance(first.module, nn.Conv2d)
        window = times(first.module.kernel_size)
        message = f"{first.label} has {window} kernels on maps of one pixel: all other weights only meet padding"
        more = f" (so do {some([call.name for call in wasted[1:]])})" if len(wasted) > 1 else ""
        yield warning(f"{message}{more}.", "Use larger images, fewer poolings, or a network for small images.")


def batch_findings(twin: nn.Module, images: Tensor) -> Iterator[Finding]:
    """Evaluation that draws lots, fails on one image, or lets the images of a batch change each other's answers.

    Args:
        twin: a copy of the network; left in evaluation mode.
        images: at least two.
    """
    twin.eval()
    batch = len(images)
    try:
        with torch.no_grad():
            together, batch = twin(images), 1
            alone, again = twin(images[:1]), twin(images[:1])
    except MISFITS as failure:
        message = f"the network stops in evaluation mode on {batch} image{'s' * (batch > 1)}: {failure}"
        yield error(message.splitlines()[0], "Use flatten(1); no squeeze(), and no fixed batch size.")
        return
    if not isinstance(together, Tensor) or not isinstance(alone, Tensor):
        return
    if alone.shape != (1, *together.shape[1:]):
        message = f"one image gives outputs {times(tuple(alone.shape)) or 'of no axis'}, a batch rows of"
        fix = "Name the axis: squeeze(1), flatten(1); never squeeze() or view(-1, ...)."
        yield error(f"{message} {times(tuple(together.shape[1:]))}.", fix)
    elif _far(alone, again):
        message = "the network answers the same image differently in evaluation mode: something random stays on."
        yield error(message, "functional.dropout needs training=self.training; nn.Dropout knows by itself.")
    elif _far(alone, together[:1]):
        message = "an image's outputs depend on the other images of its batch, in evaluation mode too"
        yield error(f"{message}{_culprit(twin)}.", "Keep the first axis apart: flatten(1), no view or mean over it.")


def _far(left: Tensor, right: Tensor) -> bool:
    """Whether two outputs differ by more than rounding."""
    size = float(torch.maximum(left.abs().amax(), right.abs().amax()))
    return bool((left - right).abs().amax() > ROUNDING * max(size, 1e-6))


def _culprit(twin: nn.Module) -> str:
    """A batch norm without running statistics, which always uses those of the batch."""
    for name, module in twin.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return f" ({label(name, module)} keeps no running statistics)"
    return ""
