"""Batch norms of Keras files go on learning with their own momentum, also where a run is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_run import QUIET, stop_after
from torch import Tensor, nn

from convcraft.config import ModelConfig, RunConfig
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.keras_applications import MOBILENET_V2, RESNET
from convcraft.models.keras_weights import load_keras_weights
from convcraft.models.weights import load_weights
from convcraft.training.loop import Interrupted
from convcraft.workflows.convert import convert
from convcraft.workflows.finetune import finetune
from convcraft.workflows.scratch.networks import named_modules, numpy_network
from convcraft.workflows.train import train

pytest.importorskip("h5py", reason="Keras files are read with h5py (the extra keras-files)")

from test_keras_applications import as_keras_has_it, description, keras_layers, tiny
from test_keras_weights import WithBatchNorm, described, keras_arrays, write_h5, write_numbered

__all__ = ["tiny"]  # a fixture
CLASSES = 10


def norms_of(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def with_momentum(entries: list[dict[str, Any]], momentum: object) -> list[dict[str, Any]]:
    for entry in entries:
        if entry["class_name"] == "BatchNormalization":
            entry["config"]["momentum"] = momentum
    return entries


def resnet_file(path: Path, momentum: float) -> Path:
    layers = keras_layers(as_keras_has_it(CLASSES))
    return write_h5(path, layers, with_momentum(description(layers), momentum))


def test_statistics_move_as_keras_moves_them(tmp_path: Path) -> None:
    """moving = moving * momentum + batch * (1 - momentum); the mean, as Keras's variance is of the batch alone."""
    model = WithBatchNorm()
    arrays = keras_arrays(model)
    path = write_h5(tmp_path / "m.h5", arrays, with_momentum(described(model), 0.8))
    assert "1 batch norms go on with Keras's momentum 0.8 (here 0.2)" in str(load_keras_weights(model, path))
    images = torch.randn(16, 1, 8, 8)
    batch = model.conv(images).mean(dim=(0, 2, 3)).detach().numpy()
    model.train()(images)
    moved = arrays["batch_normalization"][2] * 0.8 + batch * (1 - 0.8)
    np.testing.assert_allclose(model.norm.running_mean.numpy(), moved, atol=1e-6)


def test_files_that_do_not_say_it_have_keras_default(tmp_path: Path) -> None:
    assert (RESNET.momentum, MOBILENET_V2.momentum) == (0.99, 0.999)  # keras/src/applications of Keras 3.15
    model = WithBatchNorm()
    load_keras_weights(model, write_numbered(tmp_path / "m.weights.h5", keras_arrays(model)))
    assert model.norm.momentum == 0.01


@pytest.mark.parametrize("momentum", [1.5, -0.1, "high", True])
def test_what_is_no_momentum_is_refused(tmp_path: Path, momentum: object) -> None:
    model = WithBatchNorm()
    path = write_h5(tmp_path / "m.h5", keras_arrays(model), with_momentum(described(model), momentum))
    before = model.conv.weight.clone()
    with pytest.raises(UserError, match="batch_normalization with momentum"):
        load_keras_weights(model, path)
    assert torch.equal(model.conv.weight, before)
    assert model.norm.momentum == 0.1


@pytest.mark.usefixtures("tiny")
def test_applications_keep_it_layer_by_layer_and_a_converted_file_says_that_it_does_not(tmp_path: Path) -> None:
    layers = keras_layers(as_keras_has_it(CLASSES))
    entries = with_momentum(description(layers), 0.9)
    next(entry for entry in entries if entry["config"]["name"] == "conv1_bn")["config"]["momentum"] = 0.5
    path = write_h5(tmp_path / "m.h5", layers, entries)
    model = build_model(resnet(path).model, num_classes=CLASSES, in_channels=3, image_size=(32, 32))
    report = load_weights(model, path)
    assert "momentum 0.9 (here 0.1), 0.5 (here 0.5)" in str(report)
    assert [norm.momentum for norm in norms_of(model)] == [0.5] + [0.1] * (len(norms_of(model)) - 1)
    entries[0]["config"]["batch_shape"] = [None, 32, 32, 3]
    write_h5(path, layers, entries)
    assert "momentum of its batch norms is not kept" in str(convert(path, model=ModelConfig(name="resnet50")))


def test_numpy_takes_it_over() -> None:
    config = ModelConfig(name="resnet20_cifar")
    model = build_model(config, num_classes=3, in_channels=3, image_size=(32, 32))
    for number, norm in enumerate(norms_of(model)):
        norm.momentum = 1 / (number + 2)
    network = numpy_network(config, model, np.random.default_rng(0))
    theirs: dict[str, Any] = dict(model.named_modules())
    found = {name: module.momentum for name, module in named_modules(network) if hasattr(module, "running_mean")}
    assert len(found) == len(norms_of(model))
    assert found == {name: theirs[name].momentum for name in found}


def resnet(path: Path) -> RunConfig:
    """A narrow ResNet-50 from a Keras file, on digits as 32x32 pixels in colour; its statistics learn."""
    return RunConfig().changed(
        data={"source": "digits", "labels_per_class": 4},
        model={"name": "resnet50", "args": {"strided": "1x1"}, "weights": str(path)},
        preprocess={"image_size": (32, 32), "channels": 3},
        training={"epochs": 1, "batch_size": 4, "device": "cpu", "checkpoint_seconds": 1000.0},
        finetune={"train_statistics": True, "num_folds": 2},
    )


@pytest.mark.usefixtures("tiny")
@pytest.mark.parametrize("command", [pytest.param("train", marks=pytest.mark.slow), "finetune"])
def test_a_resumed_run_goes_on_with_it(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def start(config: RunConfig, run: str, *, resume: bool = False) -> str:
        if command == "train":
            result: Any = train(config, tmp_path / run, resume=resume, console=QUIET)
        else:
            result = finetune(config, tmp_path / run, resume=resume, console=QUIET)
        return str(result.summary["weights_sha256"])

    momenta: set[float | None] = set()
    forward = nn.BatchNorm2d.forward

    def noting(norm: nn.BatchNorm2d, maps: Tensor) -> Tensor:
        if norm.training:
            momenta.add(norm.momentum)
        return forward(norm, maps)

    config = resnet(resnet_file(tmp_path / "m.h5", 0.7))
    config = config.changed(finetune={"method": "full"}) if command == "finetune" else config
    straight = start(config, "straight")
    with stop_after(monkeypatch, 3), pytest.raises(Interrupted):
        start(config, "run")
    monkeypatch.setattr(nn.BatchNorm2d, "forward", noting)
    assert start(RunConfig(), "run", resume=True) == straight
    assert momenta == {0.3}
