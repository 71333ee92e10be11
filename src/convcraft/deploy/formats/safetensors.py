"""Weights as they were trained, in safetensors, and what network they are of; run by torch and convcraft.

bfloat16 halves the file and computes so, which processors with instructions for it do in half the time. What batch
norms hold, and biases, stay float32 in the file.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.config import ModelConfig
from convcraft.data.durable_files import json_bytes
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.formats.form import Files, Format, Runtime, Session
from convcraft.deploy.safetensors_guard import check_safetensors
from convcraft.errors import UserError

if TYPE_CHECKING:
    from convcraft.deploy.export_network import ExportNetwork

WEIGHTS, NETWORK = "model.safetensors", "model.json"
NOT_OURS = "A bundle of this format holds a network of convcraft's or timm's; export it again."


def write(network: ExportNetwork, images: NDArray[np.generic], precision: str) -> dict[str, bytes]:
    """
    Raises:
        UserError: a network of unknown making.
    """
    import torch
    from safetensors.torch import save

    if network.made_by is None:
        raise UserError("a network without its settings", "one that a run describes", "Export it as onnx.")
    half = precision == "bfloat16"
    tensors = {
        name: tensor.to(torch.bfloat16) if half and tensor.ndim > 1 else tensor.contiguous().clone()
        for name, tensor in network.source.state_dict().items()
    }
    settings = {key: value for key, value in asdict(network.made_by).items() if key not in ("weights", "freeze")}
    described = {
        "model": settings,
        "preprocess": network.preprocess.as_dict(),
        "num_classes": network.num_classes,
        "features": network.classifier is not None,
        "normalises": network.normalises,
    }
    return {WEIGHTS: save(tensors), NETWORK: json_bytes(described)}


def check(files: Files) -> None:
    check_safetensors(files[WEIGHTS], WEIGHTS)
    _described(files)


def open_session(files: Files, precision: str, runtime: Runtime) -> Session:
    from safetensors.torch import load

    from convcraft.deploy.export_network import ExportNetwork
    from convcraft.deploy.formats.torch_session import torch_session
    from convcraft.models.build import build_model

    described = _described(files)
    contract = Preprocess.from_dict(described["preprocess"])
    model = build_model(
        ModelConfig(**described["model"]),
        num_classes=described["num_classes"],
        in_channels=contract.channels,
        image_size=(contract.height, contract.width),
    )
    own = model.state_dict()
    tensors = {
        name: tensor.to(own[name].dtype) if name in own else tensor for name, tensor in load(files[WEIGHTS]).items()
    }
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(f"{WEIGHTS} does not fit {described['model']['name']}", "its weights", NOT_OURS) from error
    network = ExportNetwork(model.eval(), contract, features=described["features"], normalises=described["normalises"])
    return torch_session(network.for_torch(precision), runtime)


def _described(files: Files) -> dict[str, Any]:
    try:
        found = json.loads(files[NETWORK])
        known = {field.name for field in fields(ModelConfig)}
        sound = found.keys() == {"model", "preprocess", "num_classes", "features", "normalises"}
        sound = sound and found["model"].keys() <= known and type(found["num_classes"]) is int
        sound = sound and all(type(found[key]) is bool for key in ("features", "normalises"))
        if not sound:
            raise UserError(f"{NETWORK} with other entries", "the network's settings", NOT_OURS)
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{NETWORK}: {error}", "the network's settings", NOT_OURS) from error
    described: dict[str, Any] = found
    return described


FORMAT = Format(
    name="safetensors",
    description="the weights as trained, for going on with convcraft",
    files=(WEIGHTS, NETWORK),
    precisions=("float32", "bfloat16"),
    package="torch",
    base=False,
    native_code=False,
    write=write,
    check=check,
    open=open_session,
)
