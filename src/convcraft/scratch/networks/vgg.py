"""VGG-11, without and with batch norm. Simonyan & Zisserman 2015, arXiv 1409.1556, table 1, A; torchvision's names."""

from __future__ import annotations

import numpy as np

from convcraft.scratch.initialise import initialise_classifier, initialise_he
from convcraft.scratch.layers import AdaptiveAvgPool2d, BatchNorm2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from convcraft.scratch.module import Chain, Module, Sequential

CONVS, WIDTHS = (1, 1, 2, 2, 2), (64, 128, 256, 512, 512)  # 3x3 convolutions per stage, and their maps


class VGG11(Chain):
    """Images [B, in_channels, H, W] of at least 32x32 -> logits [B, num_classes].

    Args:
        dropout: share of units blanked after the first two linear layers in training (the paper: 0.5).
        batch_norm: whether batch norm follows every convolution.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        batch_norm: bool = False,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        layers: list[Module] = []
        for count, width in zip(CONVS, WIDTHS, strict=True):
            for _ in range(count):
                layers.append(Conv2d(in_channels, width, kernel_size=3, padding=1, rng=rng))
                layers.extend([BatchNorm2d(width)] if batch_norm else [])
                layers.append(ReLU())
                in_channels = width
            layers.append(MaxPool2d(2))  # halves the maps
        self.features = Sequential(*layers)  # [B, 512, H / 32, W / 32]
        self.avgpool = AdaptiveAvgPool2d(7)  # [B, 512, 7, 7] from any map
        self.flatten = Flatten()  # [B, 25088]
        self.classifier = Sequential(
            Linear(512 * 7 * 7, 4096, rng=rng),
            ReLU(),
            Dropout(dropout, rng),
            Linear(4096, 4096, rng=rng),
            ReLU(),
            Dropout(dropout, rng),
            output := Linear(4096, num_classes, rng=rng),  # [B, K]
        )
        initialise_he(self, rng)
        initialise_classifier(output, rng)
