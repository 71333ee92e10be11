"""AlexNet.

Krizhevsky, Sutskever, Hinton 2012, "ImageNet Classification with Deep Convolutional Neural Networks", NIPS 25: the
network that won ImageNet 2012 and made ReLU, dropout and GPUs the usual way. Five convolutions, three linear layers.

This is the one-GPU form that everybody trains since, with torchvision's sizes and parameter names, so that its
published weights load (61,100,840 parameters with 1000 classes). It follows Krizhevsky 2014, "One weird trick for
parallelizing convolutional neural networks", arXiv 1404.5997, and deviates from the paper of 2012 so:
- 64, 192, 384, 256, 256 maps in one piece instead of 96, 256, 384, 384, 256 in two groups on two GPUs;
- no local response normalisation (it gains little, and batch norm replaced it);
- the maps are averaged to 6x6 before the linear layers, so that any image size from 63x63 fits;
- He start values instead of N(0, 0.01) with some biases 1, with which deep networks hardly start (docs/networks.md).
"""

from __future__ import annotations

from torch import Tensor, nn

from convcraft.models.initialise import initialise_classifier, initialise_he
from convcraft.models.network import Network

UNITS = 4096  # of the two hidden linear layers


class AlexNet(Network):
    """Large kernels first, overlapping max pooling, three linear layers that hold 58.6 of 61.1 million parameters.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels, at least 63x63: a stride of 4 and three poolings eat up less.
        dropout: share of units blanked before the first two linear layers while training (the paper: 0.5).
    """

    classifier_name = "classifier.6"
    smallest_size = 63

    def __init__(
        self,
        num_classes: int = 1000,
        in_channels: int = 3,
        image_size: tuple[int, int] = (224, 224),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        # Shapes for 224x224 images; the positions are torchvision's names (features.0.weight ...).
        self.features = nn.Sequential(
            nn.Conv2d(in_channels, 64, kernel_size=11, stride=4, padding=2),  # [B, 64, 55, 55]
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [B, 64, 27, 27]
            nn.Conv2d(64, 192, kernel_size=5, padding=2),  # [B, 192, 27, 27]
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [B, 192, 13, 13]
            nn.Conv2d(192, 384, kernel_size=3, padding=1),  # [B, 384, 13, 13]
            nn.ReLU(),
            nn.Conv2d(384, 256, kernel_size=3, padding=1),  # [B, 256, 13, 13]
            nn.ReLU(),
            nn.Conv2d(256, 256, kernel_size=3, padding=1),  # [B, 256, 13, 13]
            nn.ReLU(),
            nn.MaxPool2d(kernel_size=3, stride=2),  # [B, 256, 6, 6]
        )
        self.avgpool = nn.AdaptiveAvgPool2d((6, 6))  # [B, 256, 6, 6] from any map
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(256 * 6 * 6, UNITS),  # [B, 9216] -> [B, 4096]
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(UNITS, UNITS),
            nn.ReLU(),
            nn.Linear(UNITS, num_classes),  # [B, K]
        )
        initialise_he(self)
        initialise_classifier(self.get_classifier())

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)  # [B, 256, H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        return self.classifier(self.avgpool(features).flatten(1))
