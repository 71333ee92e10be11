"""What every network of ours offers, so that any can stand in for any other (the seams are timm's).

    images [B, C, H, W] -> forward_features -> features [B, C', H', W'] -> forward_head -> logits [B, K]

`reset_classifier(num_classes)` puts a fresh last layer in place and touches nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.initialise import initialise_classifier


class Network(nn.Module, ABC):
    """A classifier in two parts: features (maps), then head (logits).

    Every subclass takes `num_classes, in_channels, image_size, dropout` in this order, then its own settings.
    """

    classifier_name: ClassVar[str]  # of the last linear layer, as in the state dict: "fc", "classifier.6"
    smallest_size: ClassVar[int]  # least height and width in pixels that leave a map of at least 1x1
    num_start_images: ClassVar[int] = 0  # train images that `start_from_images` wants to see

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

    def start_from_images(self, images: Tensor) -> None:
        """Set those start values that depend on the data; only for networks with `num_start_images`.

        Args:
            images: float32 [B, C, H, W], normalised, train images as evaluation would see them.
        """
        raise NotImplementedError(f"{type(self).__name__} has no start values that depend on images")

    def get_classifier(self) -> nn.Linear:
        """The last layer: linear, one output per class."""
        classifier = self.get_submodule(self.classifier_name)
        assert isinstance(classifier, nn.Linear)
        return classifier

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the last layer by a fresh one with `num_classes` outputs; all other weights stay."""
        old = self.get_classifier()
        new = nn.Linear(old.in_features, num_classes, device=old.weight.device, dtype=old.weight.dtype)
        initialise_classifier(new)
        self.set_submodule(self.classifier_name, new)
        self.num_classes = num_classes


def too_small(name: str, image_size: tuple[int, int], smallest_size: int) -> UserError:
    """The error for images that a network would pool away to nothing."""
    height, width = image_size
    return UserError(
        f"{name} got images of {height}x{width} pixels",
        f"at least {smallest_size}x{smallest_size}",
        f"Set preprocess.image_size to [{smallest_size}, {smallest_size}] or more, or choose a network for small "
        "images (vgg_small).",
    )
