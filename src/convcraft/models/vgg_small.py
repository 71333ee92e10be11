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
from convcraft.models.network import Network, initialise_classifier, initialise_he, too_small


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
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        _check_settings(widths, convs_per_stage, hidden, stem, pooling)
        shrink = 2 ** (len(widths) - 1 + bool(stem))  # every stage but the last ends with a pooling
        if min(image_size) < shrink:
            raise too_small("VGGSmall", image_size, shrink)

        # Shapes for 28x28 images and the default widths:
        # stage 1 [B, 32, 28, 28], pool [B, 32, 14, 14]
        # stage 2 [B, 64, 14, 14], pool [B, 64, 7, 7]
        # stage 3 [B, 128, 7, 7]
        stages: list[nn.Module] = [_conv(in_channels, stem, kernel_size=5, stride=2)] if stem else []
        for number, (before, width) in enumerate(pairwise((stem or in_channels, *widths))):
            if number > 0:
                stages.append(nn.MaxPool2d(2))
            stages.append(_stage(before, width, convs_per_stage))
        self.features = nn.Sequential(*stages)

        if hidden:
            height, width = self._map_size(image_size, bool(stem), len(widths) - 1)
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
    def _map_size(image_size: tuple[int, int], has_stem: bool, num_pools: int) -> tuple[int, int]:
        """Height and width after the stem (odd sizes round up) and the pools (they round down)."""
        height, width = ((side + 1) // 2 for side in image_size) if has_stem else image_size
        return height // 2**num_pools, width // 2**num_pools

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)  # [B, widths[-1], H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.pool(features)))


def _stage(in_channels: int, width: int, convs: int) -> nn.Sequential:
    return nn.Sequential(*(_conv(in_channels if index == 0 else width, width) for index in range(convs)))


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
