"""ResNet-9: a shallow, wide residual network for small photos that is trained in minutes.

Shape: Page 2018-19, "How to train your ResNet", myrtle.ai (the network of the DAWNBench CIFAR-10 record): a stem, three
stages that halve the map and widen it, a residual block of two convolutions in the first and the last, max pooling.
From Jordan 2024, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498: the whitening stem, max pooling
before batch norm, GELU, convolutions that start as (partly) the identity.

Where we deviate: widths are settings, because a CPU has to do with fewer than the 64-128-256-512 of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.network import Network

PATCH = 2  # side of the stem's kernel in pixels
WHITENING_FLOOR = 5e-4  # added to every variance, so that directions that hold only noise are not blown up
BATCH_NORM_MOMENTUM = 0.4  # share of the newest batch in the running statistics: short trainings have few batches


class ResNet9(Network):
    """Stem, three stages, classifier; for images from 9x9.

    The stem looks at patches of 2x2 pixels along their principal directions, each scaled to variance 1, and at the
    negatives of these: 2 * C * 4 filters. They come from train images by `start_from_images`; only the biases learn.
    Before that, and where no images are at hand, its filters are orthogonal directions drawn at random.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels.
        dropout: share of the pooled features blanked while training.
        widths: maps of the three stages.
        residual: False leaves the shortcuts away (for comparison).
    """

    classifier_name = "classifier"
    num_start_images = 2000
    smallest_size = 9  # three halvings after the stem, which takes one pixel

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: tuple[int, int] = (32, 32),
        dropout: float = 0.0,
        *,
        widths: Sequence[int] = (64, 128, 256),
        residual: bool = True,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        _check_widths(widths)
        first, second, third = widths
        directions = in_channels * PATCH**2

        # Shapes for 32x32 images:
        self.stem = nn.Conv2d(in_channels, 2 * directions, kernel_size=PATCH)  # [B, 24, 31, 31]
        self.stem_activation = nn.GELU()
        self.stage1 = nn.Sequential(_halve(2 * directions, first), _Residual(first, residual))  # [B, 64, 15, 15]
        self.stage2 = _halve(first, second)  # [B, 128, 7, 7]
        self.stage3 = nn.Sequential(_halve(second, third), _Residual(third, residual))  # [B, 256, 3, 3]
        self.pool = nn.AdaptiveMaxPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(third, num_classes)  # [B, K]
        self._initialise()

    def _initialise(self) -> None:
        for stage in (self.stage1, self.stage2, self.stage3):
            for module in stage.modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_uniform_(module.weight, a=5**0.5)
                    identity = module.weight.data[: module.in_channels]
                    nn.init.dirac_(identity)  # the first maps pass through, the rest mix them (arXiv:2404.00498, 3.3)
        directions = self.stem.out_channels // 2
        matrix = torch.empty(directions, directions)
        nn.init.orthogonal_(matrix)
        self._set_stem(matrix)
        nn.init.normal_(self.classifier.weight, std=0.5 / self.classifier.in_features**0.5)
        nn.init.zeros_(self.classifier.bias)

    def start_from_images(self, images: Tensor) -> None:
        """Set the stem's filters from images: principal directions of their 2x2 patches, scaled to variance 1.

        Args:
            images: float32 [B, C, H, W], normalised, as training sees them; a few thousand suffice.
        """
        size = self.stem.kernel_size[0]
        patches = images.unfold(2, size, 1).unfold(3, size, 1)  # [B, C, H', W', 2, 2]
        rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * size * size).double()  # [N, C * 4]
        variances, directions = torch.linalg.eigh(rows.T @ rows / len(rows))  # columns, variance rising
        # An eigenvector's sign is the solver's whim. Unequal weights fix it, also for edges, whose entries sum to 0.
        weights = torch.arange(1, len(directions) + 1, dtype=torch.float64).sqrt()
        filters = (directions * (weights @ directions).sign()).T.flip(0)
        scale = (variances.flip(0) + WHITENING_FLOOR).rsqrt()
        self._set_stem((filters * scale[:, None]).float())

    def _set_stem(self, filters: Tensor) -> None:
        """filters: float32 [C * 4, C * 4], one direction per row."""
        both = torch.cat([filters, -filters])
        with torch.no_grad():
            self.stem.weight.copy_(both.view(self.stem.weight.shape))
            self.stem.bias.zero_()  # type: ignore[union-attr]  # the stem has one
        self.stem.weight.requires_grad_(False)

    def forward_features(self, images: Tensor) -> Tensor:
        maps = self.stem_activation(self.stem(images))
        return self.stage3(self.stage2(self.stage1(maps)))  # [B, widths[2], H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.dropout(self.pool(features).flatten(1)))


class _Residual(nn.Module):
    """y = x + f(x), f two convolutions, each with norm and GELU."""

    def __init__(self, width: int, shortcut: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))
        self.shortcut = shortcut

    def forward(self, maps: Tensor) -> Tensor:
        changed: Tensor = self.body(maps)
        return maps + changed if self.shortcut else changed


def _conv(in_channels: int, width: int) -> nn.Sequential:
    return nn.Sequential(_kernel(in_channels, width), _norm(width), nn.GELU())


def _halve(in_channels: int, width: int) -> nn.Sequential:
    """Convolution, max pooling, norm, GELU: pooling first leaves a quarter of the pixels to normalise."""
    return nn.Sequential(_kernel(in_channels, width), nn.MaxPool2d(2), _norm(width), nn.GELU())


def _kernel(in_channels: int, width: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, width, kernel_size=3, padding=1, bias=False)


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, momentum=BATCH_NORM_MOMENTUM)


def _check_widths(widths: Sequence[int]) -> None:
    is_list = isinstance(widths, (list, tuple)) and len(widths) == 3
    if not is_list or any(type(width) is not int or width < 1 for width in widths):
        raise UserError(
            f"resnet9 got widths {widths!r}", "three whole numbers", "Set model.args.widths to [64, 128, 256]."
        )
