"""The NumPy networks against the torch models of the same names: logits, gradients, state dicts both ways."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.models
from safetensors.numpy import load_file
from scratch_cifar import WEIGHTS, cifar_images, trained_resnet20
from scratch_parity import (
    LOGITS,
    NETWORK_GRADIENT,
    assert_as_exact_as_torch,
    assert_networks_equal,
    assert_same_names,
    gap,
    give_back,
    network_gaps,
    take_over,
)
from small_run import BASE, QUIET, trainer_for
from torch import nn

from convcraft.models.alexnet import AlexNet as TorchAlexNet
from convcraft.models.keras_cnn import KerasCNN as TorchKerasCNN
from convcraft.models.lenet import LeNet5 as TorchLeNet5
from convcraft.models.resnet import ResNet as TorchResNet
from convcraft.models.resnet_cifar import ResNetCifar as TorchResNetCifar
from convcraft.models.seed_cnn import SeedCNN as TorchSeedCNN
from convcraft.models.vgg import VGG as TorchVGG
from convcraft.scratch.layers import Conv2d
from convcraft.scratch.losses import CrossEntropyLoss
from convcraft.scratch.module import Module
from convcraft.scratch.networks.alexnet import AlexNet
from convcraft.scratch.networks.keras_cnn import KerasCNN, state_from_keras
from convcraft.scratch.networks.lenet import LeNet5
from convcraft.scratch.networks.resnet import ResNet
from convcraft.scratch.networks.resnet_cifar import ResNetCifar
from convcraft.scratch.networks.seed_cnn import SeedCNN
from convcraft.scratch.networks.vgg import VGG11
from convcraft.training.loop import fit

Pair = Callable[[], tuple[Module, nn.Module]]

SMALL: dict[str, tuple[Pair, tuple[int, ...]]] = {
    "lenet5": (lambda: (LeNet5(), TorchLeNet5()), (4, 1, 28, 28)),
    "lenet5 of 32 pixels, relu": (
        lambda: (LeNet5(image_size=(32, 32), activation="relu"), TorchLeNet5(image_size=(32, 32), activation="relu")),
        (3, 1, 32, 32),
    ),
    "lenet5 of 8 pixels": (lambda: (LeNet5(image_size=(8, 8)), TorchLeNet5(image_size=(8, 8))), (5, 1, 8, 8)),
    "seed cnn": (lambda: (SeedCNN(), TorchSeedCNN()), (3, 1, 28, 28)),
    "seed cnn of 8 pixels": (lambda: (SeedCNN(image_size=(8, 8)), TorchSeedCNN(image_size=(8, 8))), (3, 1, 8, 8)),
    "keras cnn": (lambda: (KerasCNN(), TorchKerasCNN()), (3, 1, 28, 28)),
    "keras cnn of 48x35 pixels": (
        lambda: (KerasCNN(image_size=(48, 35)), TorchKerasCNN(image_size=(48, 35))),
        (2, 1, 48, 35),
    ),
    "resnet20": (lambda: (ResNetCifar(), TorchResNetCifar()), (4, 3, 32, 32)),
    "resnet20 of odd maps": (lambda: (ResNetCifar(), TorchResNetCifar()), (2, 3, 15, 18)),
}
LARGE: dict[str, tuple[Pair, tuple[int, ...]]] = {
    "alexnet": (lambda: (AlexNet(10), TorchAlexNet(10)), (2, 3, 63, 67)),
    "vgg11": (lambda: (VGG11(10), TorchVGG(10, depth=11)), (2, 3, 32, 32)),
    "vgg11_bn": (lambda: (VGG11(10, batch_norm=True), TorchVGG(10, depth=11, batch_norm=True)), (3, 3, 32, 35)),
    "resnet18": (lambda: (ResNet(18, 10), TorchResNet(10, depth=18)), (3, 3, 48, 40)),
    "resnet50": (lambda: (ResNet(50, 10), TorchResNet(10, depth=50)), (4, 3, 64, 48)),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("training", [True, False])
def test_small_networks(name: str, training: bool) -> None:
    pair, shape = SMALL[name]
    torch.manual_seed(0)
    assert_networks_equal(*pair(), shape, num_classes=10, training=training)


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@pytest.mark.parametrize("training", [True, False])
def test_large_networks(name: str, training: bool) -> None:
    pair, shape = LARGE[name]
    torch.manual_seed(0)
    assert_networks_equal(*pair(), shape, num_classes=10, training=training)


@pytest.mark.parametrize("name", SMALL)
def test_weights_of_a_numpy_network_load_in_the_torch_model(name: str) -> None:
    pair, shape = SMALL[name]
    network, twin = pair()
    give_back(network, twin)
    images = np.random.default_rng(0).standard_normal(shape)
    network.astype(np.float64).eval()
    with torch.no_grad():
        assert gap(network(images), twin.double().eval()(torch.tensor(images))) <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_names_of_large_networks(name: str) -> None:
    assert_same_names(*LARGE[name][0]())


TORCHVISION: dict[str, tuple[Pair, tuple[int, ...]]] = {
    "alexnet": (lambda: (AlexNet(10), torchvision.models.alexnet(num_classes=10, dropout=0.0)), (2, 3, 63, 67)),
    "vgg11": (lambda: (VGG11(10), torchvision.models.vgg11(num_classes=10, dropout=0.0)), (2, 3, 32, 32)),
    "vgg11_bn": (
        lambda: (VGG11(10, batch_norm=True), torchvision.models.vgg11_bn(num_classes=10, dropout=0.0)),
        (3, 3, 32, 35),
    ),
    "resnet18": (lambda: (ResNet(18, 10), torchvision.models.resnet18(num_classes=10)), (3, 3, 48, 40)),
    "resnet50": (lambda: (ResNet(50, 10), torchvision.models.resnet50(num_classes=10)), (4, 3, 64, 48)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks(name: str) -> None:
    pair, shape = TORCHVISION[name]
    torch.manual_seed(0)
    assert_networks_equal(*pair(), shape, num_classes=10)


def test_weights_of_a_run_of_torch_load(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path, BASE.changed(training={"epochs": 1}))
    fit(trainer, QUIET)
    file = max((tmp_path / "checkpoints").glob("step-*")) / "model.safetensors"
    network = LeNet5(num_classes=3, image_size=(8, 8))
    network.load_state_dict(load_file(file))
    images = np.random.default_rng(0).standard_normal((5, 1, 8, 8))
    network.astype(np.float64).eval()
    with torch.no_grad():
        expected = trainer.model.double().eval()(torch.tensor(images))
    assert gap(network(images), expected) <= LOGITS


def test_the_plain_twin_is_the_residual_network_without_its_sums() -> None:
    twin = TorchResNetCifar()
    for block in twin.modules():
        if hasattr(block, "shortcut"):
            block.shortcut = lambda maps: 0.0  # type: ignore[assignment]
    assert_networks_equal(ResNetCifar(shortcuts=False), twin, (3, 3, 16, 16), num_classes=10)


def test_a_seed_names_the_start_values() -> None:
    first, again, other = (LeNet5(rng=np.random.default_rng(seed)).state_dict() for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert any(not np.array_equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("depth", [7, 18, 21])
def test_depths_that_make_no_whole_blocks_are_refused(depth: int) -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        ResNetCifar(depth=depth)


def test_weights_of_another_network_are_refused_and_change_nothing() -> None:
    network = LeNet5()
    before = network.state_dict()
    other = LeNet5(num_classes=7).state_dict()
    with pytest.raises(ValueError, match=r"output.weight of shape \[7, 84\]; expected \[10, 84\]"):
        network.load_state_dict(other)
    with pytest.raises(ValueError, match="unknown"):
        network.load_state_dict(SeedCNN().state_dict())
    assert all(np.array_equal(array, before[name]) for name, array in network.state_dict().items())


# float32 ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        ({"in_channels": 3, "out_channels": 16, "kernel_size": 3, "padding": 1}, (4, 3, 32, 32)),
        ({"in_channels": 16, "out_channels": 32, "kernel_size": 3, "padding": 1}, (4, 16, 17, 15)),
        ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1}, (2, 64, 14, 14)),
        ({"in_channels": 64, "out_channels": 64, "kernel_size": 3, "padding": 1, "stride": 2}, (2, 64, 14, 14)),
        ({"in_channels": 6, "out_channels": 16, "kernel_size": 5}, (8, 6, 14, 14)),
        ({"in_channels": 32, "out_channels": 64, "kernel_size": 1, "stride": 2}, (4, 32, 16, 16)),
    ],
)
def test_convolutions_in_float32(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_as_exact_as_torch(Conv2d(**settings), nn.Conv2d(**settings), shape)


@pytest.mark.parametrize("name", ["lenet5", "seed cnn", "keras cnn"])
def test_small_networks_in_float32_are_as_exact_as_torch(name: str) -> None:
    pair, shape = SMALL[name]
    torch.manual_seed(0)
    assert_as_exact_as_torch(*pair(), shape)


@pytest.fixture
def trained(data_dir: Path) -> tuple[Module, nn.Module]:
    if not (data_dir / WEIGHTS).exists():
        pytest.skip(f"no {WEIGHTS}")
    return trained_resnet20(data_dir)


def test_trained_resnet20_in_float32(data_dir: Path, trained: tuple[Module, nn.Module]) -> None:
    network, twin = trained
    images, labels = cifar_images(data_dir, 200)
    logits = network(images)
    with torch.no_grad():
        expected = twin(torch.tensor(images)).numpy()
    assert logits.dtype == np.float32
    assert gap(logits, expected) <= 1e-4
    assert np.array_equal(logits.argmax(1), expected.argmax(1))
    assert 0.7 < np.mean(logits.argmax(1) == labels) < 0.92  # 81 % of these JPEG files


def test_trained_resnet20_in_float64_both_modes(data_dir: Path, trained: tuple[Module, nn.Module]) -> None:
    network, twin = trained
    take_over(network, twin)
    images, labels = cifar_images(data_dir, 8)
    for training in (False, True):
        network.train(training)
        twin.train(training)
        found = network_gaps(network, twin, images.astype(np.float64), labels)
        assert found["logits"] <= LOGITS
        assert max(found.values()) <= NETWORK_GRADIENT, found


@pytest.mark.parametrize("training", [False, True])
def test_trained_resnet20_gradients_in_float32(
    data_dir: Path, trained: tuple[Module, nn.Module], training: bool
) -> None:
    """In evaluation no gradient is off by more than 1e-4. In training single numbers say little, so all are one vector:
    where a ReLU's input is within rounding of 0, its gradient passes or not by luck, and torch's own float32 is off by
    up to a thousandth of a tensor's largest number.
    """
    network, twin = trained
    images, labels = cifar_images(data_dir, 32)
    network.train(training)
    exact = twin.double().train(training)
    criterion = CrossEntropyLoss()
    criterion(network(images), labels)
    network.backward(criterion.backward())
    nn.functional.cross_entropy(exact(torch.tensor(images, dtype=torch.float64)), torch.tensor(labels)).backward()
    theirs = dict(exact.named_parameters())
    assert all(parameter.grad.dtype == np.float32 for parameter in network.parameters())
    ours = np.concatenate([parameter.grad.ravel() for parameter in network.parameters()])
    expected = np.concatenate([theirs[name].grad.numpy().ravel() for name, _ in network.named_parameters()])
    if not training:
        assert gap(ours, expected) <= 1e-4
    assert np.linalg.norm(ours - expected) <= 2e-3 * np.linalg.norm(expected)


def test_weights_of_keras_go_over_with_their_axes_turned() -> None:
    """A Keras network computed by hand in Keras's own layout, height, width, channel, against ours."""
    rng = np.random.default_rng(0)
    widths = (1, 32, 64, 64, 64)
    weights: list[Any] = []
    for before, after in itertools.pairwise(widths):
        weights += [rng.standard_normal((3, 3, before, after)) * 0.2, rng.standard_normal(after) * 0.1]
    weights += [rng.standard_normal((2 * 2 * 64, 64)) * 0.1, rng.standard_normal(64)]
    weights += [rng.standard_normal((64, 10)), rng.standard_normal(10)]
    images = rng.standard_normal((2, 32, 32, 1))
    maps = images
    for kernel, bias in zip(weights[:8:2], weights[1:8:2], strict=True):
        padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))  # [B, H, W, C, 3, 3]
        maps = np.maximum(np.einsum("bhwcij,ijco->bhwo", windows, kernel) + bias, 0)
        batch, height, width, channels = maps.shape
        maps = maps.reshape(batch, height // 2, 2, width // 2, 2, channels).max(axis=(2, 4))
    units = np.maximum(maps.reshape(2, -1) @ weights[8] + weights[9], 0)
    expected = units @ weights[10] + weights[11]
    network = KerasCNN(image_size=(32, 32)).astype(np.float64)
    network.load_state_dict(state_from_keras(weights))
    assert gap(network(images.transpose(0, 3, 1, 2)), expected) <= 1e-10
    with pytest.raises(ValueError, match="kernel and bias"):
        state_from_keras(weights[:-1])
