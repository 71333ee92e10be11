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
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        _check_settings(widths, convs_per_stage, hidden)
        shrink = 2 ** (len(widths) - 1)  # every stage but the last ends with a pooling
        if min(image_size) < shrink:
            raise too_small("VGGSmall", image_size, shrink)

        # Shapes for 28x28 images and the default widths:
        # stage 1 [B, 32, 28, 28], pool [B, 32, 14, 14]
        # stage 2 [B, 64, 14, 14], pool [B, 64, 7, 7]
        # stage 3 [B, 128, 7, 7]
        stages: list[nn.Module] = []
        for before, width in pairwise((in_channels, *widths)):
            if stages:
                stages.append(nn.MaxPool2d(2))
            stages.append(_stage(before, width, convs_per_stage))
        self.features = nn.Sequential(*stages)

        if hidden:
            height, width = (side // shrink for side in image_size)
            self.pool: nn.Module = nn.Sequential(
                nn.Flatten(),  # [B, 128 * 7 * 7]
                nn.Linear(widths[-1] * height * width, hidden, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),  # [B, hidden]
            )
        else:
            self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())  # [B, 128]
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden or widths[-1], num_classes)  # [B, K]

        initialise_he(self)
        initialise_classifier(self.classifier)

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)  # [B, widths[-1], H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.pool(features)))


def _stage(in_channels: int, width: int, convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(convs):
        # The bias would be removed again by batch norm.
        conv = nn.Conv2d(in_channels if index == 0 else width, width, kernel_size=3, padding=1, bias=False)
        layers += [conv, nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def _check_settings(widths: Sequence[int], convs_per_stage: int, hidden: int) -> None:
    is_list = isinstance(widths, (list, tuple)) and len(widths) > 0
    if not is_list or any(type(number) is not int or number < 1 for number in (*widths, convs_per_stage)):
        raise UserError(
            f"vgg_small got widths {widths} and convs_per_stage {convs_per_stage}",
            "whole numbers of at least 1",
            "Set model.args.widths to a list such as [32, 64, 128].",
        )
    if type(hidden) is not int or hidden < 0:
        raise UserError(f"vgg_small got hidden {hidden!r}", "a whole number of at least 0", "Set model.args.hidden.")
