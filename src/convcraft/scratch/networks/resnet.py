"""ResNet-18, ResNet-50 and their plain twin. He et al. 2016, arXiv 1512.03385, table 1; torchvision's names.

The stride of a bottleneck is in its 3x3 convolution (Goyal et al. 2017, arXiv 1706.02677).
"""

from __future__ import annotations

import numpy as np

from convcraft.scratch.initialise import initialise_classifier, initialise_he
from convcraft.scratch.layers import (
    AdaptiveAvgPool2d,
    BatchNorm2d,
    Conv2d,
    Flatten,
    Identity,
    Linear,
    MaxPool2d,
    ReLU,
    Residual,
)
from convcraft.scratch.module import Chain, Module, Sequential

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}  # of the four stages
WIDTHS = (64, 128, 256, 512)


class BasicBlock(Residual):
    """Two 3x3 convolutions beside a shortcut: [B, C, H, W] -> [B, width, H / stride, W / stride]."""

    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int, rng: np.random.Generator) -> None:
        self.conv1 = Conv2d(in_channels, width, kernel_size=3, stride=stride, padding=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(width)
        self.act1 = ReLU()
        self.conv2 = Conv2d(width, width, kernel_size=3, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(width)
        self.act2 = ReLU()
        self.downsample = _downsample(in_channels, width, stride, rng)
        self.connect((self.conv1, self.bn1, self.act1, self.conv2, self.bn2), self.downsample, self.act2)


class Bottleneck(Residual):
    """A 1x1 convolution narrows, a 3x3 works, a 1x1 widens: -> [B, 4 * width, H / stride, W / stride]."""

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int, rng: np.random.Generator) -> None:
        self.conv1 = Conv2d(in_channels, width, kernel_size=1, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(width)
        self.act1 = ReLU()
        self.conv2 = Conv2d(width, width, kernel_size=3, stride=stride, padding=1, bias=False, rng=rng)
        self.bn2 = BatchNorm2d(width)
        self.act2 = ReLU()
        self.conv3 = Conv2d(width, width * self.expansion, kernel_size=1, bias=False, rng=rng)
        self.bn3 = BatchNorm2d(width * self.expansion)
        self.act3 = ReLU()
        self.downsample = _downsample(in_channels, width * self.expansion, stride, rng)
        branch = (self.conv1, self.bn1, self.act1, self.conv2, self.bn2, self.act2, self.conv3, self.bn3)
        self.connect(branch, self.downsample, self.act3)


class ResNet(Chain):
    """Images [B, in_channels, H, W] -> logits [B, num_classes].

    Args:
        depth: 18 (basic blocks) or 50 (bottlenecks).
    """

    def __init__(
        self,
        depth: int = 18,
        num_classes: int = 1000,
        in_channels: int = 3,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        block: type[BasicBlock] | type[Bottleneck] = BasicBlock if depth == 18 else Bottleneck

        # Shapes for 224x224 images; 4 times the maps from layer1 on with bottlenecks:
        self.conv1 = Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3, bias=False, rng=rng)
        self.bn1 = BatchNorm2d(64)  # [B, 64, 112, 112]
        self.act1 = ReLU()
        self.maxpool = MaxPool2d(3, stride=2, padding=1)  # [B, 64, 56, 56]
        channels = 64
        stages = []
        for number, (count, width) in enumerate(zip(BLOCKS[depth], WIDTHS, strict=True)):
            blocks: list[Module] = []
            for position in range(count):
                stride = 2 if number > 0 and position == 0 else 1
                blocks.append(block(channels, width, stride, rng))
                channels = width * block.expansion
            stages.append(Sequential(*blocks))
        self.layer1, self.layer2, self.layer3, self.layer4 = stages  # [B, 64, 56, 56] ... [B, 512, 7, 7]
        self.avgpool = AdaptiveAvgPool2d(1)
        self.flatten = Flatten()  # [B, 512 or 2048]
        self.fc = Linear(channels, num_classes, rng=rng)  # [B, K]
        initialise_he(self, rng)
        initialise_classifier(self.fc, rng)


def _downsample(in_channels: int, out_channels: int, stride: int, rng: np.random.Generator) -> Module:
    """The shortcut where the shape changes, a 1x1 convolution with batch norm (option B); else the input itself."""
    if stride == 1 and in_channels == out_channels:
        return Identity()
    conv = Conv2d(in_channels, out_channels, kernel_size=1, stride=stride, bias=False, rng=rng)
    return Sequential(conv, BatchNorm2d(out_channels))
