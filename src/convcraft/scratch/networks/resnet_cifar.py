"""ResNet-20 for small images, its deeper forms and their plain twins. He et al. 2016, arXiv 1512.03385, section 4.2.

depth = 6n + 2: a 3x3 convolution, three stages of n blocks with 16, 32, 64 maps, global average pooling, one linear
layer. Shortcuts have no parameters (option A). Names are those of github.com/akamaster/pytorch_resnet_cifar10.
"""

from __future__ import annotations

import numpy as np

from convcraft.scratch.checks import refuse
from convcraft.scratch.initialise import initialise_classifier, initialise_he
from convcraft.scratch.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Dropout,
    Flatten,
    Identity,
    Linear,
    PadShortcut,
    ReLU,
    Residual,
)
from convcraft.scratch.module import Chain, Module, Sequential


class BasicBlock(Residual):
    """Two 3x3 convolutions beside a shortcut: [B, C, H, W] -> [B, C', H / stride, W / stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, rng: np.random.Generator) -> None:
        self.conv1 = Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(out_channels)
        self.act1 = ReLU()
        self.conv2 = Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(out_channels)
        self.act2 = ReLU()
        changed = stride > 1 or in_channels != out_channels
        self.shortcut = PadShortcut(stride, out_channels - in_channels) if changed else Identity()
        self.connect((self.conv1, self.bn1, self.act1, self.conv2, self.bn2), self.shortcut, self.act2)


class PlainBlock(Chain):
    """The same layers without the shortcut, for comparison: the deeper, the worse it trains."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, rng: np.random.Generator) -> None:
        self.conv1 = Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(out_channels)
        self.act1 = ReLU()
        self.conv2 = Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(out_channels)
        self.act2 = ReLU()


class ResNetCifar(Chain):
    """Images [B, in_channels, H, W] of any size -> logits [B, num_classes].

    Args:
        dropout: share of the 64 pooled features blanked in training (the paper has none).
        depth: 6n + 2: 20, 32, 44, 56 ...
        shortcuts: False makes the plain twin.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        dropout: float = 0.0,
        depth: int = 20,
        shortcuts: bool = True,
        rng: np.random.Generator | None = None,
    ) -> None:
        if depth < 8 or depth % 6 != 2:
            raise refuse(f"depth={depth}", "6n + 2: 8, 14, 20, 32, 44, 56 ...", "Pass another depth.")
        rng = np.random.default_rng() if rng is None else rng
        block = BasicBlock if shortcuts else PlainBlock
        count = (depth - 2) // 6

        def stage(in_channels: int, out_channels: int, stride: int) -> Module:
            """The first block changes size and maps, the others keep them."""
            first = block(in_channels, out_channels, stride, rng)
            return Sequential(first, *(block(out_channels, out_channels, 1, rng) for _ in range(count - 1)))

        # Shapes for 32x32 images:
        self.conv1 = Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False, rng=rng)  # [B, 16, 32, 32]
        self.bn1 = BatchNorm2d(16)
        self.act1 = ReLU()
        self.layer1 = stage(16, 16, 1)  # [B, 16, 32, 32]
        self.layer2 = stage(16, 32, 2)  # [B, 32, 16, 16]
        self.layer3 = stage(32, 64, 2)  # [B, 64, 8, 8]
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()  # [B, 64]
        self.dropout = Dropout(dropout, rng)
        self.linear = Linear(64, num_classes, rng=rng)  # [B, K]
        initialise_he(self, rng)
        initialise_classifier(self.linear, rng)
