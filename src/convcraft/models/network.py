"""What every network of ours offers, so that any can stand in for any other (the seams are timm's).

    images [B, C, H, W] -> forward_features -> features [B, C', H', W'] -> forward_head -> logits [B, K]

`reset_classifier(num_classes)` puts a fresh last layer in place and touches nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from convcraft.errors import UserError


class Network(nn.Module, ABC):
    """A classifier in two parts: features (maps), then head (logits).

    Every subclass takes `num_classes, in_channels, image_size, dropout` in this order, then its own settings.
    """

    classifier_name: ClassVar[str]  # attribute of the last linear layer
    smallest_size: ClassVar[int]  # least height and width in pixels that leave a map of at least 1x1

    def __init__(self, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> None:
        super().__init__()
        for name, value in (("num_classes", num_classes), ("in_channels", in_channels)):
            if value < 1:
                raise UserError(f"{name} is {value}", "a whole number of at least 1", f"Pass another {name}.")
        if min(image_size) < self.smallest_size:
            raise too_small(type(self).__name__, image_size, self.smallest_size)
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size

    @abstractmethod
    def forward_features(self, images: Tensor) -> Tensor:
        """images: float32 [B, C, H, W], normalised. Returns the last maps [B, C', H', W']."""

    @abstractmethod
    def forward_head(self, features: Tensor) -> Tensor:
        """features: what `forward_features` gave. Returns logits [B, K] (no softmax: the loss takes logits)."""

    def forward(self, images: Tensor) -> Tensor:
        """images: float32 [B, C, H, W], normalised. Returns logits float32 [B, K]."""
        logits: Tensor = self.forward_head(self.forward_features(images))
        return logits

    def get_classifier(self) -> nn.Linear:
        """The last layer: linear, one output per class."""
        classifier = getattr(self, self.classifier_name)
        assert isinstance(classifier, nn.Linear)
        return classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one with `num_classes` outputs; all other weights stay."""
        old = self.get_classifier()
        new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        initialise_classifier(new)
        setattr(self, self.classifier_name, new)
        self.num_classes = num_classes


def initialise_he(network: nn.Module) -> None:
    """Start values for ReLU networks: every convolution and linear layer N(0, 2 / fan_in), biases 0.

    ReLU halves the variance of what it lets through, the factor 2 restores it, so that signals keep their size from
    layer to layer. Batch norm keeps torch's start (weight 1, bias 0).
    Source: He et al. 2015, "Delving Deep into Rectifiers", arXiv 1502.01852, eq. 10.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_in", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_xavier(network: nn.Module) -> None:
    """Start values for tanh networks: weights U(-a, a) with a = sqrt(6 / (fan_in + fan_out)), biases 0.

    Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 16.
    """
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def initialise_classifier(classifier: nn.Linear) -> None:
    """Small weights N(0, 0.01), bias 0: all classes begin equally likely, so the first loss is close to ln K."""
    nn.init.normal_(classifier.weight, std=0.01)
    nn.init.zeros_(classifier.bias)


def too_small(name: str, image_size: tuple[int, int], smallest_size: int) -> UserError:
    """The error for images that a network would pool away to nothing."""
    height, width = image_size
    return UserError(
        f"{name} got images of {height}x{width} pixels",
        f"at least {smallest_size}x{smallest_size}",
        f"Set preprocess.image_size to [{smallest_size}, {smallest_size}] or more, or choose a network for small "
        "images (vgg_small).",
    )
