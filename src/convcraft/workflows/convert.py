"""`convcraft convert`: weights in another format -> a .safetensors file, which holds numbers and nothing that runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save as tensors_to_bytes
from torch import nn

from convcraft.config import ModelConfig
from convcraft.data.durable_files import replace_durably
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.cards import Card, card_path
from convcraft.models.keras_applications import application_of
from convcraft.models.keras_file import KerasLayer, read_keras_file
from convcraft.models.keras_weights import read_keras_weights
from convcraft.models.pretrained import find_card
from convcraft.models.weights import KERAS
from convcraft.models.weights_file import SAFETENSORS, StoredWeights, read_weights_file

ENDINGS = (".weights.h5", ".pth.tar")  # of two parts; all others have one
USUAL_SIZE = (224, 224)  # pixels, where a Keras file does not say
MOMENTUM_LOST = "the momentum of its batch norms is not kept: train from the Keras file where they go on learning"


@dataclass(frozen=True)
class ConvertResult:
    """What was written. card: the .json that was written beside it, or None. notes: what a person should know."""

    file: Path
    out: Path
    num_tensors: int
    num_bytes: int
    card: Path | None
    notes: tuple[str, ...]

    def __str__(self) -> str:
        text = f"{self.file.name} -> {self.out}: {self.num_tensors} tensors, {self.num_bytes:,} bytes"
        card = () if self.card is None else (f"card {self.card.name}",)
        return "; ".join([text, *card, *self.notes])


def convert(file: Path, out: Path | None = None, *, model: ModelConfig | None = None) -> ConvertResult:
    """Write the weights of a file as safetensors, by the plain names of the network.

    Args:
        file: .pt, .pth, .th, .bin, .ckpt or .safetensors; .h5, .weights.h5 or .keras.
        out: the new file; None takes the same name with .safetensors.
        model: of a Keras file, the network of ours that it becomes; None takes what the card says. Arguments that a
            network of keras.applications needs are added.

    Raises:
        UserError: `out` is there already or has another ending, or the file is one that `load_weights` refuses; nothing
            is written.
    """
    out = out or file.with_name(_stem(file) + SAFETENSORS)
    if out.suffix != SAFETENSORS:
        raise UserError(f"--out {out.name}", f"a name that ends in {SAFETENSORS}", "Change --out.")
    if out.exists():
        raise UserError(f"{out}, which is there already", "a new file", "Choose another --out, or remove it.")
    keras = file.suffix.lower() in KERAS
    card = find_card(file, None)
    stored = _read_keras(file, model, card) if keras else read_weights_file(file)
    # Tensors may share their numbers, which safetensors does not store.
    content = tensors_to_bytes({name: tensor.clone().contiguous() for name, tensor in stored.tensors.items()})
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_durably(out, content)
    left_out = (f"left out: {', '.join(stored.left_out)}",) if stored.left_out else ()
    notes = (*stored.remarks, *left_out)
    return ConvertResult(file, out, len(stored.tensors), len(content), _write_card(card, out), notes)


def _stem(file: Path) -> str:
    ending = next((ending for ending in ENDINGS if file.name.lower().endswith(ending)), file.suffix)
    return file.name[: len(file.name) - len(ending)]


def _write_card(card: Card | None, out: Path) -> Path | None:
    """The card goes along, unless there is one already."""
    path = card_path(out)
    if card is None or path.exists():
        return None
    replace_durably(path, json.dumps(card.to_dict(), indent=2, ensure_ascii=False).encode() + b"\n")
    return path


def _read_keras(file: Path, model: ModelConfig | None, card: Card | None) -> StoredWeights:
    """Numbers of a Keras file in the layout of our network of the same layers."""
    layers, description = read_keras_file(file)
    if model is None and card is None:
        fix = "Name it with --model (keras_cnn, vgg16, resnet50, mobilenetv2_100 ...)."
        raise UserError(f"{file.name}, a Keras file without a card", "the network of ours that it becomes", fix)
    if model is None:
        assert card is not None
        model = ModelConfig(name=card.architecture, args=card.model_args)
    application = application_of([layer.name for layer in layers])
    if application is not None:
        model = replace(model, args={**application.model_args, **model.args})
    stored = read_keras_weights(_network_for(file, model, layers, description, card), file)
    lost = (MOMENTUM_LOST,) if stored.momenta else ()
    return replace(stored, notes=(*stored.notes, *lost, _network_note(model)))


def _network_note(model: ModelConfig) -> str:
    """Numbers alone fit look-alikes too (another stride, another padding), which would answer otherwise."""
    args = ", ".join(f"model.args.{name}={value}" for name, value in model.args.items())
    return f"for the network {model.name}{f' with {args}, and no other' if args else ''}"


def _network_for(
    file: Path, model: ModelConfig, layers: list[KerasLayer], description: list[dict[str, Any]], card: Card | None
) -> nn.Module:
    kernels = {kind: [layer.arrays[0] for layer in layers if layer.kind == kind] for kind in ("convolution", "dense")}
    if not kernels["convolution"] or not kernels["dense"]:
        received = f"{file.name} without {'dense layers' if kernels['convolution'] else 'convolutions'}"
        raise UserError(received, "a whole network", "Save it with its classifier (include_top=True).")
    size = _input_size(description) or (card.input_size[1:] if card is not None else USUAL_SIZE)
    in_channels, num_classes = kernels["convolution"][0].shape[2], kernels["dense"][-1].shape[1]
    return build_model(model, num_classes=num_classes, in_channels=in_channels, image_size=size)


def _input_size(description: list[dict[str, Any]]) -> tuple[int, int] | None:
    """Height and width that a file says, or None."""
    settings: list[Mapping[str, Any]] = [entry.get("config", {}) for entry in description[:1]]
    for config in settings:
        shape = config.get("batch_shape") or config.get("batch_input_shape") or []
        if len(shape) == 4 and all(isinstance(side, int) for side in shape[1:3]):
            return shape[1], shape[2]
    return None
