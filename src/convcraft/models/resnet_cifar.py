"""ResNet-20/32/44/56 for small images.

He, Zhang, Ren, Sun 2016, "Deep Residual Learning for Image Recognition", arXiv 1512.03385, section 4.2 (CIFAR-10).
depth = 6n + 2: one 3x3 convolution, then 3 stages of n blocks of two 3x3 convolutions with 16, 32, 64 maps, global
average pooling, one linear layer. Shortcuts have no parameters (option A).

Published CIFAR-10 test error (table 6): 8.75, 7.51, 7.17, 6.97 %. Parameters with 3 channels and 10 classes: 269,722,
464,154, 658,586, 853,018. Names of parameters are those of the widely used weights of
github.com/akamaster/pytorch_resnet_cifar10 (BSD-2-Clause), so that these files load.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from convcraft.models.initialise import initialise_classifier, initialise_he
from convcraft.models.network import Network


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv(relu(bn(conv(x)))))): [B, C, H, W] -> [B, C', H/stride, W/stride]."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.act2 = nn.ReLU()

    def forward(self, maps: Tensor) -> Tensor:
        residual = self.act1(self.bn1(self.conv1(maps)))
        residual = self.bn2(self.conv2(residual))
        return self.act2(residual + self.shortcut(maps))

    def shortcut(self, maps: Tensor) -> Tensor:
        """Option A: every `stride`-th pixel, and zero maps added, half before and half behind the old ones."""
        if self.stride == 1 and self.new_channels == 0:
            return maps
        before = self.new_channels // 2
        # F.pad counts from the last axis: width, height, channels.
        return F.pad(maps[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, before, self.new_channels - before))


class ResNetCifar(Network):
    """A CIFAR ResNet for images of any size and any number of channels.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels; global pooling makes the network indifferent to it.
        dropout: share of the 64 pooled features blanked while training (the paper has none).
        depth: 6n + 2.
    """

    classifier_name = "linear"
    smallest_size = 4  # leaves 1x1 maps before global pooling

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        dropout: float = 0.0,
        *,
        depth: int = 20,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        assert depth % 6 == 2
        blocks = (depth - 2) // 6

        # Shapes for 32x32 images:
        self.conv1 = nn.Conv2d(in_channels, 16, kernel_size=3, padding=1, bias=False)  # [B, 16, 32, 32]
        self.bn1 = nn.BatchNorm2d(16)
        self.act1 = nn.ReLU()
        self.layer1 = _stage(blocks, 16, 16, stride=1)  # [B, 16, 32, 32]
        self.layer2 = _stage(blocks, 16, 32, stride=2)  # [B, 32, 16, 16]
        self.layer3 = _stage(blocks, 32, 64, stride=2)  # [B, 64, 8, 8]
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(64, num_classes)  # [B, K]

        initialise_he(self)
        initialise_classifier(self.linear)

    def forward_features(self, images: Tensor) -> Tensor:
        maps = self.act1(self.bn1(self.conv1(images)))
        return self.layer3(self.layer2(self.layer1(maps)))  # [B, 64, H/4, W/4]

    def forward_head(self, features: Tensor) -> Tensor:
        pooled = features.mean(dim=(2, 3))  # [B, 64]
        return self.linear(self.dropout(pooled))


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, stride=1) for _ in range(blocks - 1)))


def resnet20_cifar(*args: Any, **kwargs: Any) -> ResNetCifar:
    return ResNetCifar(*args, **kwargs, depth=20)


def resnet32_cifar(*args: Any, **kwargs: Any) -> ResNetCifar:
    return ResNetCifar(*args, **kwargs, depth=32)


def resnet44_cifar(*args: Any, **kwargs: Any) -> ResNetCifar:
    return ResNetCifar(*args, **kwargs, depth=44)


def resnet56_cifar(*args: Any, **kwargs: Any) -> ResNetCifar:
    return ResNetCifar(*args, **kwargs, depth=56)
