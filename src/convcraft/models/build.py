"""A network by name: one of ours, or any of timm's, for any image size and number of channels."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from convcraft.config import ModelConfig
from convcraft.errors import UserError
from convcraft.models.alexnet import AlexNet
from convcraft.models.keras_cnn import KerasCNN
from convcraft.models.layer_head import LayerHead
from convcraft.models.lenet import LeNet5
from convcraft.models.network import Network, too_small
from convcraft.models.pruned import apply_shapes
from convcraft.models.resnet import plain18, plain34, resnet18, resnet34, resnet50, resnet101
from convcraft.models.resnet9 import ResNet9
from convcraft.models.resnet_cifar import resnet20_cifar, resnet32_cifar, resnet44_cifar, resnet56_cifar
from convcraft.models.seed_cnn import SeedCNN
from convcraft.models.vgg import vgg11, vgg11_bn, vgg13, vgg13_bn, vgg16, vgg16_bn, vgg19, vgg19_bn
from convcraft.models.vgg_small import VGGSmall

OWN_MODELS: dict[str, Callable[..., Network]] = {
    "lenet5": LeNet5,
    "seed_cnn": SeedCNN,
    "keras_cnn": KerasCNN,
    "vgg_small": VGGSmall,
    "resnet20_cifar": resnet20_cifar,
    "resnet32_cifar": resnet32_cifar,
    "resnet44_cifar": resnet44_cifar,
    "resnet56_cifar": resnet56_cifar,
    "resnet9": ResNet9,
    "alexnet": AlexNet,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg11_bn": vgg11_bn,
    "vgg13_bn": vgg13_bn,
    "vgg16_bn": vgg16_bn,
    "vgg19_bn": vgg19_bn,
    "resnet18": resnet18,
    "resnet34": resnet34,
    "resnet50": resnet50,
    "resnet101": resnet101,
    "plain18": plain18,
    "plain34": plain34,
}

TIMM_PREFIX = "timm/"  # asks for timm's network where ours has the same name: timm/resnet18

# Arguments of timm.create_model that settings may not carry: build_model sets them itself, or they would fetch weights,
# unpickle a file (checkpoint_path) or change what the network returns.
CLOSED_ARGUMENTS = frozenset(
    {
        "model_name",
        "num_classes",
        "in_chans",
        "drop_rate",
        "checkpoint_path",
        "cache_dir",
        "features_only",
        "out_indices",
    }
)

# What constructors and forward passes of other people's networks raise when sizes or arguments do not fit.
MISFITS = (RuntimeError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, AssertionError)

LARGEST_PROBE = 512  # pixels: where the search for the smallest usable image size gives up


def build_model(config: ModelConfig, *, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """A network with fresh start values, proven to map [B, C, H, W] to logits [B, K].

    Start values come from torch's global random state in a fixed order: call torch.manual_seed first.

    Args:
        config: name, dropout and further arguments; `config.weights` is left to `load_weights`.
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels.

    Raises:
        UserError: unknown name (the nearest are given), arguments that the network does not take, images too small for
            it (the smallest size is given).
    """
    if config.name in OWN_MODELS:
        model: nn.Module = _build_own(config, num_classes, in_channels, image_size)
    else:
        model = _build_timm(config, num_classes, in_channels, image_size)
    if config.tapped_layers:
        model = LayerHead(model, config.tapped_layers, config.num_tapped_features, num_classes)
    apply_shapes(model, config.pruned)
    _check_output(model, config.name, num_classes, in_channels, image_size)
    return model


def _build_own(config: ModelConfig, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> Network:
    constructor = OWN_MODELS[config.name]
    settings = inspect.signature(constructor).parameters
    own = [name for name, parameter in settings.items() if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    for name in config.args:
        if name not in own:
            raise _unknown_argument(config.name, name, f"one of {', '.join(own)}" if own else "no further arguments")
    return constructor(num_classes, in_channels, image_size, config.dropout, **config.args)


def _build_timm(config: ModelConfig, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    import timm  # takes seconds: only for those who ask for its networks

    name = config.name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(name):  # also keeps out hf-hub: and local-dir: names, which would reach for files
        raise unknown_name(name, timm.list_models())
    for argument in config.args:
        if argument in CLOSED_ARGUMENTS or argument.startswith("pretrained"):
            raise _unknown_argument(config.name, argument, "arguments of the network's own constructor")
    arguments: dict[str, Any] = dict(config.args)
    if config.dropout > 0:
        arguments["drop_rate"] = config.dropout
    usual = timm.get_pretrained_cfg(name)
    if usual is not None and usual.fixed_input_size:  # such networks have a position table of this size
        arguments.setdefault("img_size", image_size)
    try:
        return timm.create_model(name, pretrained=False, num_classes=num_classes, in_chans=in_channels, **arguments)
    except MISFITS as error:
        raise UserError(
            f"timm cannot build {name} for {image_size[0]}x{image_size[1]} pixels, {in_channels} channels and "
            f"the arguments {arguments}: {error}",
            "arguments that this network takes",
            "Change model.args, model.dropout or preprocess.image_size.",
        ) from error


def _unknown_argument(model_name: str, argument: str, expected: str) -> UserError:
    return UserError(f"model.args of {model_name} has {argument}", expected, f"Remove model.args.{argument}.")


def unknown_name(name: str, timm_names: list[str]) -> UserError:
    near = difflib.get_close_matches(name.lower(), [*OWN_MODELS, *timm_names], n=5, cutoff=0.5)
    fix = f"Did you mean {', '.join(near)}?" if near else "`timm.list_models()` prints timm's names."
    return UserError(f"unknown network {name!r}", f"one of {', '.join(OWN_MODELS)}, or a name that timm knows", fix)


def _check_output(model: nn.Module, name: str, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
    """Send one black image through, so that misfits show here and not in the first training step."""
    try:
        logits = forward_black(model, in_channels, image_size)
    except MISFITS as error:
        smallest = _smallest_size(model, in_channels, start=min(image_size) + 1)
        if smallest is not None:
            raise too_small(name, image_size, smallest) from error
        raise UserError(
            f"{name} cannot take images of {image_size[0]}x{image_size[1]} pixels: {error}",
            "a size that the network can take",
            "Set preprocess.image_size to the network's usual size (often [224, 224]).",
        ) from error
    if not isinstance(logits, Tensor) or logits.shape != (1, num_classes):
        got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise UserError(
            f"{name} returns {got}", f"logits [1, {num_classes}] for one image", "Choose a network that classifies."
        )


def forward_black(model: nn.Module, in_channels: int, image_size: tuple[int, int]) -> Any:
    """Outputs for one black image in eval mode; random state, batch norm statistics and mode stay as they were."""
    modes = [(module, module.training) for module in model.modules()]
    device = next(model.parameters()).device
    model.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            return model(torch.zeros(1, in_channels, *image_size, device=device))
    finally:
        for module, training in modes:
            module.training = training


def _smallest_size(model: nn.Module, in_channels: int, start: int) -> int | None:
    """Least square that the network takes, or None where none up to LARGEST_PROBE fits."""
    for side in range(start, LARGEST_PROBE + 1):
        try:
            forward_black(model, in_channels, (side, side))
        except MISFITS:
            continue
        return side
    return None


def num_parameters(model: nn.Module) -> int:
    """Count of trained numbers (batch norm's running statistics are not trained)."""
    return sum(parameter.numel() for parameter in model.parameters())
