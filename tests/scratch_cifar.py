"""The published ResNet-20 in both engines, and CIFAR-10's images as it takes them. Not a test file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow.parquet
import torch
from PIL import Image
from safetensors.numpy import load_file

from convcraft.models.resnet_cifar import ResNetCifar as TorchResNetCifar
from convcraft.scratch.checks import Array
from convcraft.scratch.networks.resnet_cifar import ResNetCifar

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published weights
WEIGHTS = Path("weights") / "resnet20_cifar10.safetensors"


def trained_resnet20(data_dir: Path) -> tuple[ResNetCifar, TorchResNetCifar]:
    """Both networks with the published weights, in evaluation mode."""
    state = load_file(data_dir / WEIGHTS)
    network, twin = ResNetCifar(), TorchResNetCifar()
    network.load_state_dict(state)
    twin.load_state_dict({name: torch.tensor(array) for name, array in state.items()}, strict=False)
    network.eval()
    twin.eval()
    return network, twin


def cifar_images(data_dir: Path, number: int, split: str = "test") -> tuple[Array, Array]:
    """The first `number` of a split: normalised float32 [number, 3, 32, 32], and labels [number]."""
    rows = pyarrow.parquet.read_table(data_dir / "cifar10" / f"{split}.parquet").slice(0, number).to_pylist()
    pixels = np.stack([np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))) for row in rows])
    images = (pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.array([row["label"] for row in rows])
