"""Bundles of small networks without a run behind them, and a small run to export."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from torch import nn

from convcraft.config import ModelConfig, RunConfig
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.judges import Judges
from convcraft.deploy.make_bundle import MadeBundle, Source, make_bundle
from convcraft.deploy.probes import made_pictures
from convcraft.evaluation.trust import TRUST, fit_trust
from convcraft.models.build import build_model
from convcraft.workflows.train import train

WEIGHTS = "0" * 64


def digits_run(folder: Path) -> Path:
    """A run of two epochs in a new folder `digits` in this one."""
    config = RunConfig().changed(
        data={"source": "digits"},
        model={"name": "lenet5"},
        training={"epochs": 2, "device": "cpu", "trackers": ()},
    )
    return train(config, folder / "digits", console=Console(quiet=True)).run


def small_network(name: str, num_classes: int, contract: Preprocess) -> nn.Module:
    """Random weights with batch statistics of random images, so that every layer matters; in evaluation mode."""
    torch.manual_seed(0)
    size = (contract.height, contract.width)
    model = build_model(ModelConfig(name=name), num_classes=num_classes, in_channels=contract.channels, image_size=size)
    with torch.no_grad():
        for _ in range(3):
            model.train()(torch.randn(8, contract.channels, *size))
    return model.eval()


def source_of(
    model: nn.Module,
    contract: Preprocess,
    classes: tuple[str, ...],
    *,
    normalises: bool = False,
    features: bool = False,
    trusted: bool = True,
    made_by: ModelConfig | None = None,
) -> Source:
    rng = np.random.default_rng(0)
    trust = {}
    if trusted:
        targets = rng.integers(0, len(classes), 200)
        logits = rng.normal(size=(200, len(classes))) + 3 * np.eye(len(classes))[targets]
        fitted = fit_trust(
            logits,
            targets,
            loss="cross_entropy",
            weights_sha256=WEIGHTS,
            preprocess_sha256=contract.hash(),
            strangeness=None,
        )
        trust = {TRUST: json.dumps({**fitted.to_dict(), "tensors_sha256": None}).encode()}
    return Source(
        name="test",
        network=ExportNetwork(model, contract, features=features, normalises=normalises, made_by=made_by),
        classes=classes,
        loss="cross_entropy",
        weights_sha256=WEIGHTS,
        trust=trust,
        about={"network": type(model).__name__},
        card="# test\n",
    )


def made_of(source: Source, form: str = "onnx", precision: str = "float32", judges: Judges | None = None) -> MadeBundle:
    contract = source.preprocess
    pictures = made_pictures(contract.height, contract.width)
    calibration = np.stack([contract.pixels(picture.content) for picture in pictures])
    return make_bundle(source, find_format(form), precision, pictures, judges, calibration)
