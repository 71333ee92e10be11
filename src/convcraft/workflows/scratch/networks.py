"""The networks that the NumPy engine has, by the names of their torch twins."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.network import Network
from convcraft.scratch.layers import BatchNorm2d, Conv2d
from convcraft.scratch.module import Module
from convcraft.scratch.networks.alexnet import AlexNet
from convcraft.scratch.networks.keras_cnn import KerasCNN
from convcraft.scratch.networks.lenet import LeNet5
from convcraft.scratch.networks.resnet import ResNet
from convcraft.scratch.networks.resnet_cifar import ResNetCifar
from convcraft.scratch.networks.seed_cnn import SeedCNN
from convcraft.scratch.networks.vgg import VGG11
from convcraft.training.freeze import is_held


@dataclass(frozen=True)
class Twin:
    """How the NumPy network of a name is built.

    fixed: arguments that the name stands for. takes: settings of `model.args` that it knows. sized: whether it wants
    the image size. drops: whether it has a place for dropout.
    """

    build: Callable[..., Module]
    fixed: dict[str, Any]
    takes: tuple[str, ...] = ()
    sized: bool = False
    drops: bool = True


TWINS = {
    "lenet5": Twin(LeNet5, {}, ("activation",), sized=True),
    "seed_cnn": Twin(SeedCNN, {}, sized=True),
    "keras_cnn": Twin(KerasCNN, {}, sized=True),
    "resnet20_cifar": Twin(ResNetCifar, {"depth": 20}),
    "resnet32_cifar": Twin(ResNetCifar, {"depth": 32}),
    "resnet44_cifar": Twin(ResNetCifar, {"depth": 44}),
    "resnet56_cifar": Twin(ResNetCifar, {"depth": 56}),
    "alexnet": Twin(AlexNet, {}),
    "vgg11": Twin(VGG11, {"batch_norm": False}),
    "vgg11_bn": Twin(VGG11, {"batch_norm": True}),
    "resnet18": Twin(ResNet, {"depth": 18}, drops=False),
    "resnet50": Twin(ResNet, {"depth": 50}, drops=False),
}


def check_network(config: ModelConfig) -> None:
    """Refuse what the NumPy engine cannot build.

    Raises:
        UserError: the network or one of its settings is torch's alone.
    """
    twin = TWINS.get(config.name)
    if twin is None:
        fix = "Choose one of them with --model, or train with torch: convcraft train."
        raise UserError(f"network {config.name!r} in NumPy", "one of " + ", ".join(TWINS), fix)
    for name in config.args:
        if name not in twin.takes:
            expected = f"{config.name} in NumPy with {', '.join(twin.takes) or 'no further arguments'}"
            raise UserError(f"model.args.{name}", expected, f"Take {name} out of model.args, or train with torch.")
    if config.dropout and not twin.drops:
        fix = "Set model.dropout to 0, or train with torch."
        raise UserError(f"model.dropout {config.dropout} for {config.name} in NumPy", "no dropout", fix)
    if config.tapped_layers:
        fix = "Take them out, or train with torch."
        raise UserError("model.tapped_layers in NumPy", "a network with one classifier on its last layer", fix)


def numpy_network(config: ModelConfig, model: nn.Module, rng: np.random.Generator) -> Module:
    """The NumPy network with the weights, statistics, momenta and frozen parts of its torch twin.

    Args:
        config: what `check_network` has passed.
        model: the torch network, with its start values.
        rng: what dropout draws from.
    """
    assert isinstance(model, Network)  # all of TWINS are ours
    twin = TWINS[config.name]
    arguments = {**twin.fixed, **config.args, "num_classes": model.num_classes, "in_channels": model.in_channels}
    arguments["rng"] = rng
    if twin.sized:
        arguments["image_size"] = model.image_size
    if twin.drops:
        arguments["dropout"] = config.dropout
    network = twin.build(**arguments)
    network.load_state_dict({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    learning = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in network.named_parameters():
        parameter.trainable = learning[name]
    twins: dict[str, Any] = dict(model.named_modules())
    for name, module in named_modules(network):
        if isinstance(module, BatchNorm2d):
            module.momentum = twins[name].momentum
    convolution = next(module for module in network.modules() if isinstance(module, Conv2d))
    convolution.need_input_grad = False  # nobody changes the images
    return network


def held_modules(network: Module, model: nn.Module) -> list[Module]:
    """The NumPy modules whose torch twins are frozen: they compute as in evaluation while the others train."""
    held = {name for name, module in model.named_modules() if is_held(module)}
    return [module for name, module in named_modules(network) if name in held]


def named_modules(network: Module, prefix: str = "") -> Iterator[tuple[str, Module]]:
    """Every module under its path, as in torch: "layer1.0.conv1"."""
    yield prefix, network
    for name, child in network.children():
        yield from named_modules(child, f"{prefix}.{name}" if prefix else name)
