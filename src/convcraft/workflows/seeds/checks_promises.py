"""Checks of the listing against the article's own words: what the text names and the code must then have."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from convcraft.workflows.seeds.program import GAP, WRONG, Diagnosis, Program, keyword

AUGMENTATIONS = ("ImageDataGenerator", "RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation",
                 "RandomHorizontalFlip", "RandomCrop", "RandomAffine")  # fmt: skip


def _calls(*names: str) -> Callable[[Program], bool]:
    return lambda program: any(program.calls(*names))


def _imports(*packages: str) -> Callable[[Program], bool]:
    def found(program: Program) -> bool:
        nodes = [node for node in ast.walk(program.tree) if isinstance(node, (ast.Import, ast.ImportFrom))]
        modules = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        modules |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        return any(module.split(".")[0] in packages for module in modules)

    return found


def _rotates(program: Program) -> bool:
    ranged = any(keyword(call, "rotation_range") is not None for call in program.calls("ImageDataGenerator"))
    return ranged or any(program.calls("RandomRotation", "RandomAffine"))


def _stops_early(program: Program) -> bool:
    counted = any(isinstance(node, ast.Name) and node.id == "patience" for node in ast.walk(program.tree))
    return counted or any(program.calls("EarlyStopping"))


def _pretrained(program: Program) -> bool:
    values = [keyword(call, "weights") for call in program.calls()]
    given = [value for value in values if value is not None]
    named = any(not (isinstance(value, ast.Constant) and value.value is None) for value in given)
    read = [
        name
        for call in program.calls("load_state_dict", "load_weights")
        for name in program.calls("load", "load_file", within=call)
    ]
    return named or bool(read)


def _takes(name: str) -> Callable[[Program], bool]:
    def found(program: Program) -> bool:
        functions = [node for node in ast.walk(program.tree) if isinstance(node, ast.FunctionDef)]
        return any(name == item.arg for f in functions for item in [*f.args.args, *f.args.kwonlyargs])

    return found


# What a text can promise: how the code shows it, and how it is added.
FEATURES: dict[str, tuple[Callable[[Program], bool], str]] = {
    "early stopping": (_stops_early, "Stop after some epochs without a better validation figure; keep the best."),
    "dropout": (_calls("Dropout", "Dropout2d"), "Put a Dropout layer before the last dense layer."),
    "batch normalisation": (_calls("BatchNormalization", "BatchNorm2d"), "Put it behind each convolution."),
    "augmentation": (_calls(*AUGMENTATIONS), "Shift, turn and scale the training images a little."),
    "rotation": (_rotates, "Add a rotation to the random changes."),
    "pretrained weights": (_pretrained, "Load published weights: fine-tuning needs something to tune."),
    "stride": (_takes("stride"), "Step by `stride` pixels."),
    "padding": (_takes("padding"), "Pad the image first."),
    "dilation": (_takes("dilation"), "Spread the kernel's taps."),
    "TensorFlow or PyTorch": (_imports("tensorflow", "torch", "keras"), "Compare with torch's conv2d."),
    "heat map": (_imports("matplotlib"), "Draw image, kernel and response."),
}


def promises(program: Program) -> Iterator[Diagnosis]:
    """Everything that the text says and the listing lacks ("frozen layers" has a check of its own)."""
    for promise in program.promises:
        if promise.feature not in FEATURES:
            continue
        shown, fix = FEATURES[promise.feature]
        if not shown(program):
            yield Diagnosis(
                f"no {promise.feature}", GAP, "the listing as a whole", f"{promise.said}; the code has none", fix
            )


def normalisation(program: Program) -> Iterator[Diagnosis]:
    """torchvision images that are only brought to 0..1, not to mean 0 and deviation 1."""
    to_tensor = next(program.calls("ToTensor"), None)
    if to_tensor is not None and not any(program.calls("Normalize")):
        cause = "pixels stay in 0..1: no channel is centred, and no published weights were trained on such input"
        fix = "Add Normalize(mean, std), measured on the training images or those of the weights."
        yield Diagnosis("no normalisation", GAP, program.where(to_tensor), cause, fix)


# How the weights of keras.applications want their input: the mode of each module's preprocess_input.
KERAS_INPUT = {"ResNet50": "caffe: BGR, 0..255, minus the ImageNet mean", "VGG16": "caffe: BGR, 0..255, minus the mean"}


def foreign_preprocessing(program: Program) -> Iterator[Diagnosis]:
    """Pretrained Keras weights fed with other numbers than they were trained on."""
    for call in program.calls(*KERAS_INPUT):
        weights = program.value(keyword(call, "weights"))
        scaled = [node for node in program.calls("ImageDataGenerator", "Rescaling") if _rescales(node)]
        uses_own = any(
            isinstance(node, ast.Name) and node.id == "preprocess_input" and isinstance(node.ctx, ast.Load)
            for node in ast.walk(program.tree)
        )
        if weights is not None and scaled and not uses_own:
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            cause = f"pixels are divided by 255, but {name}'s published weights want {KERAS_INPUT[name]}"
            fix = "Use the preprocess_input of the same module, and nothing else."
            yield Diagnosis("other preprocessing", WRONG, program.where(scaled[0]), cause, fix)


def _rescales(call: ast.Call) -> bool:
    return keyword(call, "rescale") is not None or (
        isinstance(call.func, ast.Attribute) and call.func.attr == "Rescaling"
    )
