"""A small VGG with batch norm, for small grey or colour images.

After Simonyan & Zisserman 2015, "Very Deep Convolutional Networks for Large-Scale Image Recognition", arXiv 1409.1556:
nothing but 3x3 convolutions, in stages that halve the map and double the number of maps. Added since: batch norm
(Ioffe & Szegedy 2015, arXiv 1502.03167) after every convolution, and global average pooling (Lin et al. 2014, arXiv
1312.4400) instead of the paper's two layers of 4,096 units, which would hold nearly all parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.initialise import initialise_classifier, initialise_he
from convcraft.models.network import Network, too_small

POOLINGS: dict[str, type[nn.Module]] = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
DOWNSAMPLINGS = (*POOLINGS, "stride")


class VGGSmall(Network):
    """Stages of 3x3 conv - BN - ReLU with 2x2 max pooling between them.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels; at least 2 ** (stages - 1), so 4x4 with three stages.
        dropout: share of the features before the last layer blanked while training.
        widths: maps of each stage.
        convs_per_stage: convolutions in each stage.
        hidden: units of a linear layer between the flattened maps and the classes; 0 pools globally instead, which is
            smaller and the usual choice.
        stem: maps of a 5x5 convolution with stride 2 before the first stage; 0 leaves it out. It spares the costly
            maps at full size: on 28x28 digits about half of the time, at no measurable loss.
        pooling: "avg" or "max", the global pooling; max answers "is the pattern anywhere", which suits strokes.
        kernel_size: side of the stages' kernels, an odd number; the paper's 3 is the usual choice (docs/choosing.md).
        downsampling: what halves the maps between stages: "max" or "avg" pooling of 2x2, or "stride", a step of 2 in
            the next stage's first convolution (which rounds odd sizes up, where pooling rounds them down).
    """

    classifier_name = "classifier"
    smallest_size = 1  # depends on the number of stages, see __init__

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
        *,
        widths: Sequence[int] = (32, 64, 128),
        convs_per_stage: int = 2,
        hidden: int = 0,
        stem: int = 0,
        pooling: str = "avg",
        kernel_size: int = 3,
        downsampling: str = "max",
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        _check_settings(widths, convs_per_stage, hidden, stem, pooling)
        _check_kernels(kernel_size, downsampling)
        shrink = 2 ** (len(widths) - 1 + bool(stem))  # every stage but the last ends with a pooling
        if min(image_size) < shrink:
            raise too_small("VGGSmall", image_size, shrink)

        # Shapes for 28x28 images and the default widths:
        # stage 1 [B, 32, 28, 28], pool [B, 32, 14, 14]
        # stage 2 [B, 64, 14, 14], pool [B, 64, 7, 7]
        # stage 3 [B, 128, 7, 7]
        stages: list[nn.Module] = [_conv(in_channels, stem, kernel_size=5, stride=2)] if stem else []
        for number, (before, width) in enumerate(pairwise((stem or in_channels, *widths))):
            if number > 0 and downsampling != "stride":
                stages.append(POOLINGS[downsampling](2))
            stride = 2 if number > 0 and downsampling == "stride" else 1
            stages.append(_stage(before, width, convs_per_stage, kernel_size, stride))
        self.features = nn.Sequential(*stages)

        if hidden:
            strides = len(widths) - 1 if downsampling == "stride" else 0
            height, width = self._map_size(image_size, bool(stem) + strides, len(widths) - 1 - strides)
            self.pool: nn.Module = nn.Sequential(
                nn.Flatten(),  # [B, 128 * 7 * 7]
                nn.Linear(widths[-1] * height * width, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),  # [B, hidden]
            )
        else:
            whole_map = nn.AdaptiveAvgPool2d(1) if pooling == "avg" else nn.AdaptiveMaxPool2d(1)
            self.pool = nn.Sequential(whole_map, nn.Flatten())  # [B, 128]
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or widths[-1], num_classes)  # [B, K]

        initialise_he(self)
        initialise_classifier(self.classifier)

    @staticmethod
    def _map_size(image_size: tuple[int, int], num_strides: int, num_pools: int) -> tuple[int, int]:
        """Height and width after convolutions with stride 2 (odd sizes round up) and then pools (they round down)."""
        height, width = (-(-side // 2**num_strides) for side in image_size)
        return height // 2**num_pools, width // 2**num_pools

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)  # [B, widths[-1], H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.pool(features)))


def _stage(in_channels: int, width: int, convs: int, kernel_size: int, stride: int) -> nn.Sequential:
    """Convolutions of one size of map; the first changes the number of maps and, with stride 2, their size."""
    first = _conv(in_channels, width, kernel_size, stride)
    return nn.Sequential(first, *(_conv(width, width, kernel_size) for _ in range(convs - 1)))


def _conv(in_channels: int, width: int, kernel_size: int = 3, stride: int = 1) -> nn.Sequential:
    """Convolution - BN - ReLU. The convolution has no bias: batch norm would remove it again."""
    conv = nn.Conv2d(in_channels, width, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(width), nn.ReLU())


def _check_settings(widths: Sequence[int], convs_per_stage: int, hidden: int, stem: int, pooling: str) -> None:
    is_list = isinstance(widths, (list, tuple)) and len(widths) > 0
    if not is_list or any(type(number) is not int or number < 1 for number in (*widths, convs_per_stage)):
        raise UserError(
            f"vgg_small got widths {widths} and convs_per_stage {convs_per_stage}",
            "whole numbers of at least 1",
            "Set model.args.widths to a list such as [32, 64, 128].",
        )
    for name, value in (("hidden", hidden), ("stem", stem)):
        if type(value) is not int or value < 0:
            fix = f"Set model.args.{name}."
            raise UserError(f"vgg_small got {name} {value!r}", "a whole number of at least 0", fix)
    if pooling not in ("avg", "max"):
        raise UserError(f"vgg_small got pooling {pooling!r}", "avg or max", "Set model.args.pooling.")


def _check_kernels(kernel_size: int, downsampling: str) -> None:
    if type(kernel_size) is not int or kernel_size < 1 or kernel_size % 2 == 0:
        fix = "Set model.args.kernel_size to 3, 5 or 7."
        raise UserError(f"vgg_small got kernel_size {kernel_size!r}", "an odd whole number of at least 1", fix)
    if downsampling not in DOWNSAMPLINGS:
        expected = "one of " + ", ".join(DOWNSAMPLINGS)
        raise UserError(f"vgg_small got downsampling {downsampling!r}", expected, "Set model.args.downsampling.")
