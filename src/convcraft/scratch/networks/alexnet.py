"""AlexNet. Krizhevsky, Sutskever, Hinton 2012, in the one-GPU form of arXiv 1404.5997, with torchvision's names."""

from __future__ import annotations

import numpy as np

from convcraft.scratch.initialise import initialise_classifier, initialise_he
from convcraft.scratch.layers import AdaptiveAvgPool2d, Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from convcraft.scratch.module import Chain, Sequential


class AlexNet(Chain):
    """Images [B, in_channels, H, W] of at least 63x63 -> logits [B, num_classes].

    Args:
        dropout: share of units blanked before the first two linear layers in training (the paper: 0.5).
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        # Shapes for 224x224 images:
        self.features = Sequential(
            Conv2d(in_channels, 64, kernel_size=11, stride=4, padding=2, rng=rng),  # [B, 64, 55, 55]
            ReLU(),
            MaxPool2d(3, stride=2),  # [B, 64, 27, 27]: windows overlap
            Conv2d(64, 192, kernel_size=5, padding=2, rng=rng),  # [B, 192, 27, 27]
            ReLU(),
            MaxPool2d(3, stride=2),  # [B, 192, 13, 13]
            Conv2d(192, 384, kernel_size=3, padding=1, rng=rng),
            ReLU(),
            Conv2d(384, 256, kernel_size=3, padding=1, rng=rng),
            ReLU(),
            Conv2d(256, 256, kernel_size=3, padding=1, rng=rng),
            ReLU(),
            MaxPool2d(3, stride=2),  # [B, 256, 6, 6]
        )
        self.avgpool = AdaptiveAvgPool2d(6)  # [B, 256, 6, 6] from any map
        self.flatten = Flatten()  # [B, 9216]
        self.classifier = Sequential(
            Dropout(dropout, rng),
            Linear(256 * 6 * 6, 4096, rng=rng),
            ReLU(),
            Dropout(dropout, rng),
            Linear(4096, 4096, rng=rng),
            ReLU(),
            output := Linear(4096, num_classes, rng=rng),  # [B, K]
        )
        initialise_he(self, rng)
        initialise_classifier(output, rng)
