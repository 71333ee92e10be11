"""Checks on a PyTorch listing: its network is built from the source and one batch is sent through."""

from __future__ import annotations

import ast
import inspect
import math
import traceback
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from convcraft.errors import first_line
from convcraft.workflows.seeds.program import STOPS, WRONG, Diagnosis, Program, argument, called_name, keyword

if TYPE_CHECKING:
    from torch import Tensor, nn

# What a network that does not fit its input raises.
MISFITS = (RuntimeError, ValueError, TypeError, IndexError)


def build_network(program: Program) -> nn.Module | None:
    """The last nn.Module class of the listing, built; None where it defines none, or a name that it needs is missing.

    Only its imports and class definitions are executed. The listings are fixed texts of this package.
    """
    from torch import nn

    parts = [node for node in program.tree.body if isinstance(node, (ast.Import, ast.ImportFrom, ast.ClassDef))]
    if not any(isinstance(node, ast.ClassDef) for node in parts):
        return None
    namespace: dict[str, Any] = {}
    module = ast.Module(body=list(parts), type_ignores=[])
    try:
        exec(compile(module, "<listing>", "exec"), namespace)  # noqa: S102 - our own fixed text
        own = [item for item in namespace.values() if isinstance(item, type) and issubclass(item, nn.Module)]
        built: nn.Module = own[-1]()
    except (NameError, ImportError):  # the checks on names tell which
        return None
    return built


def one_batch(program: Program) -> Iterator[Diagnosis]:
    """One batch forward: lost or mixed images, a linear layer that expects other features, outputs and classes."""
    import torch

    network = build_network(program)
    if network is None:
        return
    images = torch.zeros(program.batch_size or 1, *program.task.image_shape)
    linear = _first_linear_mismatch(network, images)
    if linear is not None:
        yield _flatten_diagnosis(program, network, images, *linear)
    else:
        yield from _forward_pass(program, network, images)
    units = _last_linear(network).out_features
    if units != program.task.num_classes:
        where = _line_of_layer(program, _name_of(network, _last_linear(network)))
        cause = f"{units} outputs for the {program.task.num_classes} classes of {program.task.data}"
        yield Diagnosis("outputs", WRONG, where, cause, f"Give the last layer {program.task.num_classes} outputs.")


def _forward_pass(program: Program, network: nn.Module, images: Tensor) -> Iterator[Diagnosis]:
    """What one batch raises on its way, and whether what comes out can be logits."""
    import torch

    try:
        with torch.no_grad():
            network.eval()(images)
    except NameError:  # the checks on names tell which
        return
    except MISFITS as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == "<listing>"]
        where = f"line {lines[-1]}: {program.lines[lines[-1] - 1].strip()}" if lines and lines[-1] else "the network"
        cause = f"a batch of {list(images.shape)} stops with {type(error).__name__}: {first_line(error)}"
        fix = "Let each layer expect what the one before it makes."
        yield Diagnosis("forward pass", STOPS, where, cause, fix)
        return
    last = _last_linear(network)
    with torch.no_grad():
        last.weight *= 1e3  # logits become as wide as one likes; anything squashed does not
        outputs = network(torch.rand_like(images))
        last.weight /= 1e3
    squashed = bool(((outputs >= 0) & (outputs <= 1)).all() | ((outputs.abs() <= 1).all()))
    sums_to_one = bool(torch.allclose(outputs.sum(-1), torch.ones(len(outputs))))  # softmax: a check of its own
    if squashed and not sums_to_one and any(program.calls("CrossEntropyLoss", "cross_entropy")):
        cause = "outputs stay within -1..1 whatever the last layer's weights: the cross-entropy of logits cannot fall"
        where = _line_of_layer(program, _name_of(network, last))
        yield Diagnosis("squashed outputs", WRONG, where, cause, "Return the last layer's outputs as they are: logits.")


def _first_linear_mismatch(network: nn.Module, images: Tensor) -> tuple[str, int, int] | None:
    """(layer, its in_features, the features that one image really has before it), or None where they agree.

    The features are those of the last maps that the layers before it made.
    """
    import torch
    from torch import nn

    sizes: list[int] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: sizes.append(math.prod(output.shape[1:])))
        for module in network.modules()
        if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.BatchNorm2d))
    ]
    try:
        with torch.no_grad():
            network.eval()(images)
    except (*MISFITS, NameError):
        pass  # where it fails shows below: the maps before the failing layer were seen
    finally:
        for handle in handles:
            handle.remove()
    name, linear = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Linear))
    return (name, linear.in_features, sizes[-1]) if sizes and sizes[-1] != linear.in_features else None


def _flatten_diagnosis(
    program: Program, network: nn.Module, images: Tensor, layer: str, expected: int, got: int
) -> Diagnosis:
    import torch

    rows = len(images) * got
    try:
        with torch.no_grad():
            outputs = network(images)
        fate = f"{len(images)} images silently become {len(outputs)} rows, and the loss then stops with a ValueError"
    except MISFITS:
        fate = f"{rows:,} numbers cannot be viewed as rows of {expected:,}: RuntimeError"
    cause = f"{layer} expects {expected:,} features, but an image has {got:,} after the last pooling; {fate}"
    fix = f"x.flatten(1), and {got} inputs for {layer}: flatten(1) can never mix images."
    return Diagnosis("flatten size", STOPS, _line_of_layer(program, layer), cause, fix)


def head_of_published_network(program: Program) -> Iterator[Diagnosis]:
    """A torchvision network whose classifier is left at ImageNet's thousand classes."""
    if not any(
        isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torchvision.models")
        for node in ast.walk(program.tree)
    ):
        return
    for call in program.calls("ResNet18", "resnet18", "ResNet50", "resnet50"):
        given = program.value(keyword(call, "num_classes"))
        units = given if given is not None else (_replaced_head(program) or _default_classes())
        if units != program.task.num_classes:
            cause = (
                f"the classifier has {units} outputs for the {program.task.num_classes} classes of {program.task.data}"
            )
            fix = f"model.fc = nn.Linear(model.fc.in_features, {program.task.num_classes})."
            yield Diagnosis("outputs", WRONG, program.where(call), cause, fix)


def _replaced_head(program: Program) -> int | None:
    """Outputs of `model.fc = nn.Linear(_, K)`, where the listing has such a line."""
    for node in ast.walk(program.tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Attribute):
            continue
        if node.targets[0].attr == "fc" and isinstance(node.value, ast.Call) and called_name(node.value) == "Linear":
            units = program.value(argument(node.value, 1, "out_features"))
            return units if isinstance(units, int) else None
    return None


def _default_classes() -> int:
    from torchvision.models.resnet import ResNet

    return int(inspect.signature(ResNet).parameters["num_classes"].default)


def _last_linear(network: nn.Module) -> nn.Linear:
    from torch import nn

    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def _name_of(network: nn.Module, wanted: nn.Module) -> str:
    return next(name for name, module in network.named_modules() if module is wanted)


def _line_of_layer(program: Program, layer: str) -> str:
    """The line that assigns self.LAYER."""
    for node in ast.walk(program.tree):
        if (
            isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Attribute)
            and node.targets[0].attr == layer
        ):
            return program.where(node)
    return f"layer {layer}"
