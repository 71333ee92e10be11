"""Checks on a Keras listing: its layers are read from the source and their shapes worked out by Keras's own rules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from convcraft.workflows.seeds.program import STOPS, WRONG, Diagnosis, Program, argument, called_name, keyword, names_in

LAYERS = ("Conv2D", "MaxPooling2D", "GlobalAveragePooling2D", "Flatten", "Dense", "BatchNormalization", "Dropout")
FUNCTIONAL_BUILDERS = ("ResNet50", "VGG16", "MobileNetV2", "Model")  # give a Functional model: it has no .add
INTEGER_SOURCES = ("randint",)


@dataclass(frozen=True)
class Layer:
    """One layer as written: its kind, its call, and the shape (H, W, C) or (units,) that it makes."""

    kind: str
    call: ast.Call
    output: tuple[int, ...] | None  # None where no output is possible


def read_layers(program: Program) -> list[Layer]:
    """The layers in order, each with the shape that it makes of one image; ends at the first impossible one."""
    channels, height, width = program.task.image_shape
    shape: tuple[int, ...] = (height, width, channels)
    found: list[Layer] = []
    for call in program.calls(*LAYERS):
        following = _after(program, call, shape)
        found.append(Layer(called_name(call), call, following))
        if following is None:
            break
        shape = following
    return found


def _after(program: Program, call: ast.Call, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What a layer makes of (H, W, C) or (units,); None where a kernel is larger than the map."""
    kind = called_name(call)
    if kind == "Dense":
        return (program.value(argument(call, 0, "units")),)
    if kind == "Flatten" and len(shape) == 3:
        return (shape[0] * shape[1] * shape[2],)
    if kind == "GlobalAveragePooling2D":
        return (shape[-1],)
    if kind == "Conv2D":
        sides = _windowed(shape[:2], program, call, size=argument(call, 1, "kernel_size"), stride=1)
        return None if sides is None else (*sides, program.value(argument(call, 0, "filters")))
    if kind == "MaxPooling2D":
        sides = _windowed(shape[:2], program, call, size=argument(call, 0, "pool_size"), stride=None)
        return None if sides is None else (*sides, shape[2])
    return shape


def _windowed(
    sides: tuple[int, ...], program: Program, call: ast.Call, size: ast.expr | None, stride: int | None
) -> tuple[int, ...] | None:
    window = program.value(size) or 2
    window = (window, window) if isinstance(window, int) else window
    steps = window if stride is None else (stride, stride)
    if program.value(keyword(call, "padding")) == "same":
        return tuple(-(-side // step) for side, step in zip(sides, steps, strict=True))
    made = tuple((side - length) // step + 1 for side, length, step in zip(sides, window, steps, strict=True))
    return made if min(made) >= 1 else None


def impossible_layers(program: Program) -> Iterator[Diagnosis]:
    """A convolution or pooling whose window is larger than the map that reaches it."""
    layers = read_layers(program)
    if not layers or layers[-1].output is not None:
        return
    shape = layers[-2].output if len(layers) > 1 else None
    number = sum(layer.kind == layers[-1].kind for layer in layers)
    way = " -> ".join("x".join(map(str, layer.output)) for layer in layers if layer.output is not None)
    cause = (
        f"{layers[-1].kind} number {number} sees a map of {'x'.join(map(str, shape or ()))} (height, width, channels), "
        f"smaller than its window: ValueError while the model is built. The way there: {way}"
    )
    fix = "Pad the convolutions (padding='same'), or leave a pooling out."
    yield Diagnosis("map too small", STOPS, program.where(layers[-1].call), cause, fix)


def add_on_functional(program: Program) -> Iterator[Diagnosis]:
    """model.add(...) on what keras.applications or keras.Model returned."""
    functional = {
        target.id: called_name(node.value)
        for node in ast.walk(program.tree)
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
        for target in node.targets
        if isinstance(target, ast.Name) and called_name(node.value) in FUNCTIONAL_BUILDERS
    }
    for call in program.calls("add"):
        owner = call.func.value if isinstance(call.func, ast.Attribute) else None
        if isinstance(owner, ast.Name) and owner.id in functional:
            cause = f"{functional[owner.id]}(...) returns a Functional model, which has no .add: AttributeError"
            fix = "Put it into keras.Sequential([backbone, ...]), or call the new layers on backbone.output."
            yield Diagnosis("add on Functional", STOPS, program.where(call), cause, fix)
            return


def outputs(program: Program) -> Iterator[Diagnosis]:
    """A last layer, class mode or loss for fewer classes than the task has."""
    dense = list(program.calls("Dense"))
    if not dense:
        return
    num_classes, last = program.task.num_classes, dense[-1]
    units = program.value(argument(last, 0, "units"))
    if units != num_classes:
        activation = program.value(keyword(last, "activation")) or "linear"
        cause = f"{units} {activation} unit(s) for the {num_classes} classes of {program.task.data}"
        yield Diagnosis("outputs", WRONG, program.where(last), cause, f"Dense({num_classes}, activation='softmax').")
    for call in program.calls("compile"):
        if program.value(keyword(call, "loss")) == "binary_crossentropy" and num_classes > 2:
            cause = (
                f"binary_crossentropy compares one probability with 0 or 1; {num_classes} classes have labels up to "
            )
            fix = "sparse_categorical_crossentropy for class indices, categorical_crossentropy for one-hot rows."
            yield Diagnosis("binary loss", WRONG, program.where(call), cause + str(num_classes - 1), fix)
    for call in program.calls("flow_from_directory"):
        if program.value(keyword(call, "class_mode")) == "binary" and num_classes > 2:
            cause = f"class_mode='binary' gives labels 0 or 1, and refuses a folder with {num_classes} classes"
            yield Diagnosis("binary labels", STOPS, program.where(call), cause, "class_mode='categorical'.")
            return


def label_shapes(program: Program) -> Iterator[Diagnosis]:
    """Class indices [N] given to a loss that compares rows [N, K]."""
    categorical = any(
        isinstance(node, ast.Attribute | ast.Constant)
        and (node.attr if isinstance(node, ast.Attribute) else node.value) == "categorical_crossentropy"
        for node in ast.walk(program.tree)
    )
    if not categorical:
        return
    for call in program.calls("fit"):
        pair = keyword(call, "validation_data")
        validation = pair.elts[1] if isinstance(pair, ast.Tuple) and len(pair.elts) > 1 else None
        given = {"labels": argument(call, 1, "y"), "validation labels": validation}
        indices = [name for name, labels in given.items() if labels is not None and _is_index(program, labels, call)]
        if indices:
            num_classes = program.task.num_classes
            cause = (
                f"the {indices[0]} are class indices of shape (N,), but categorical_crossentropy compares rows "
                f"(N, {num_classes}): ValueError at the first step"
            )
            fix = f"keras.utils.to_categorical(labels, {num_classes}), or sparse_categorical_crossentropy."
            yield Diagnosis("label shape", STOPS, program.where(call), cause, fix)


def _is_index(program: Program, labels: ast.expr, before: ast.expr | ast.stmt) -> bool:
    """Whether an expression gives class indices: followed back to randint, load_data() or .target.

    False where to_categorical stands on the way, or where it leads elsewhere.
    """
    if isinstance(labels, ast.Subscript):
        return _is_index(program, labels.value, before)
    if isinstance(labels, ast.Attribute):
        return labels.attr == "target"
    if isinstance(labels, ast.Call):
        of = labels.func.value if isinstance(labels.func, ast.Attribute) else None
        same = of is not None and called_name(labels) in ("astype", "reshape", "ravel", "copy")
        return called_name(labels) in INTEGER_SOURCES or (same and of is not None and _is_index(program, of, before))
    made = _assigned_before(program, labels, before) if isinstance(labels, ast.Name) else None
    if made is None or not isinstance(labels, ast.Name):
        return False
    if isinstance(made.value, ast.Call) and called_name(made.value) == "load_data":
        return True  # the images beside them are never given as labels
    part = _part_of(made.targets[0], made.value, labels.id)
    return part is not None and _is_index(program, part, made)


def _part_of(target: ast.expr, value: ast.expr, name: str) -> ast.expr | None:
    """What a name gets of an assignment: of `a, b = c, d` a gets c."""
    if isinstance(target, ast.Name):
        return value
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
        return next((v for t, v in zip(target.elts, value.elts, strict=True) if name in names_in(t)), None)
    return None


def _assigned_before(program: Program, name: ast.Name, use: ast.expr | ast.stmt) -> ast.Assign | None:
    """The assignment of a name that is in force where it is used."""
    before = [node for node in program.tree.body if isinstance(node, ast.Assign) and node.lineno < use.lineno]
    named = [node for node in before if any(name.id in names_in(target) for target in node.targets)]
    return named[-1] if named else None


def counted_layers(program: Program) -> Iterator[Diagnosis]:
    """The number of poolings that the text names against the number in the code."""
    for promise in program.promises:
        kind, _, number = promise.feature.partition(" layers: ")
        if number and (count := sum(1 for _ in program.calls(kind))) != int(number):
            cause = f"{promise.said}, the code has {count}"
            yield Diagnosis("layer count", "gap", "the listing as a whole", cause, "Let code and text agree.")
