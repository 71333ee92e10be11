"""VGG-11, 13, 16 and 19, without and with batch norm.

Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556,
table 1, configurations A, B, D and E: nothing but 3x3 convolutions, in five stages that halve the map and double the
number of maps, then three linear layers. Two 3x3 kernels see as far as one 5x5, with fewer parameters and one ReLU
more. The `_bn` forms have batch norm (Ioffe & Szegedy 2015, arXiv 1502.03167) after every convolution, which came later
and lets the deep ones train from scratch without tricks.

Parameter names are torchvision's, so that its published weights load. Where we deviate from the paper:
- the maps are averaged to 7x7 before the linear layers (as in torchvision), so that any image size from 32x32 fits;
- He start values; the paper starts deep networks from the trained weights of configuration A.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from convcraft.models.initialise import initialise_classifier, initialise_he
from convcraft.models.network import Network

WIDTHS = (64, 128, 256, 512, 512)  # maps of the five stages
CONVS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}  # table 1: A, B, D, E
UNITS = 4096  # of the two hidden linear layers


class VGG(Network):
    """Five stages of 3x3 conv (- BN) - ReLU, each with 2x2 max pooling behind it, and three linear layers.

    The linear layers hold 123.6 of VGG-16's 138.4 million parameters; `vgg_small` does without them.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels, at least 32x32: five poolings halve it five times.
        dropout: share of units blanked after the first two linear layers while training (the paper: 0.5).
        depth: layers with weights: 11, 13, 16 or 19.
        batch_norm: whether batch norm follows every convolution.
    """

    classifier_name = "classifier.6"
    smallest_size = 32

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        dropout: float = 0.0,
        *,
        depth: int,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        # Shapes for 224x224 images: stages end with [B, 64, 112, 112], [B, 128, 56, 56], [B, 256, 28, 28],
        # [B, 512, 14, 14], [B, 512, 7, 7]. Positions in one flat list are torchvision's names (features.0.weight ...).
        self.features = nn.Sequential(*_stages(in_channels, CONVS[depth], batch_norm))
        self.avgpool = nn.AdaptiveAvgPool2d((7, 7))  # [B, 512, 7, 7] from any map
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, UNITS),  # [B, 25088] -> [B, 4096]
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(UNITS, UNITS),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(UNITS, num_classes),  # [B, K]
        )
        initialise_he(self)
        initialise_classifier(self.get_classifier())

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)  # [B, 512, H/32, W/32]

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.avgpool(features).flatten(1))


def _stages(in_channels: int, convs: Sequence[int], batch_norm: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    before = in_channels
    for width, count in zip(WIDTHS, convs, strict=True):
        for _ in range(count):
            # Batch norm removes a bias again; it is there all the same, because published weights have it.
            layers.append(nn.Conv2d(before, width, kernel_size=3, padding=1))
            if batch_norm:
                layers.append(nn.BatchNorm2d(width))
            layers.append(nn.ReLU())
            before = width
        layers.append(nn.MaxPool2d(2))
    return layers


def vgg11(*args: Any) -> VGG:
    return VGG(*args, depth=11)


def vgg13(*args: Any) -> VGG:
    return VGG(*args, depth=13)


def vgg16(*args: Any) -> VGG:
    return VGG(*args, depth=16)


def vgg19(*args: Any) -> VGG:
    return VGG(*args, depth=19)


def vgg11_bn(*args: Any) -> VGG:
    return VGG(*args, depth=11, batch_norm=True)


def vgg13_bn(*args: Any) -> VGG:
    return VGG(*args, depth=13, batch_norm=True)


def vgg16_bn(*args: Any) -> VGG:
    return VGG(*args, depth=16, batch_norm=True)


def vgg19_bn(*args: Any) -> VGG:
    return VGG(*args, depth=19, batch_norm=True)
