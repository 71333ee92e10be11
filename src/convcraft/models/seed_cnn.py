"""The small CNN of an article on MNIST ("seed 001": 基于卷积的MNIST分类模型), repaired.

As written, the article's `CNNClassifier` cannot run. What was wrong, and what is done here:
- `fc1` expects 64 * 8 * 8 inputs. A 28x28 digit leaves 64 maps of 5x5, so `view(-1, 64 * 8 * 8)` turns 64 images into
  25 rows and the loss stops with a ValueError; with 1 or 32 images `view` itself fails.
  Here the flattened size follows from the image size, and `flatten(1)` can never mix images.
- Two outputs for ten digits. Here `num_classes`.
- One channel is fixed. Here `in_channels`.
- `log_softmax` before `CrossEntropyLoss`, which applies it again: harmless (log_softmax of log_softmax changes nothing)
  but needless. Here logits are returned.
- The text names dropout against overfitting, the code has none. Here it stands before the last layer, where it is
  usual; `dropout=0.5` is the classic rate (Srivastava et al. 2014), 0 leaves the article's network.
Kept: layer names, 3x3 kernels without padding, 32 and 64 maps, 2x2 max pooling, 128 units, torch's start values.
"""

from __future__ import annotations

from torch import Tensor, nn

from convcraft.models.network import Network


class SeedCNN(Network):
    """Two convolutions, two linear layers; images of any size from 4x4 and any number of channels.

    The article's unpadded kernels need 10x10 pixels; smaller images get a border of one zero in both convolutions
    ("same" padding), so that 8x8 still has 2x2 maps at the end.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels.
        dropout: share of the 128 units blanked while training.
    """

    classifier_name = "fc2"
    smallest_size = 4

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        padding = 0 if min(image_size) >= 10 else 1
        height, width = (_pooled(_pooled(side, padding), padding) for side in image_size)

        # Shapes for 28x28 images:
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=3, padding=padding)  # [B, 32, 26, 26]
        self.act1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)  # [B, 32, 13, 13]
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=padding)  # [B, 64, 11, 11]
        self.act2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)  # [B, 64, 5, 5]
        self.fc1 = nn.Linear(64 * height * width, 128)  # [B, 1600] -> [B, 128]
        self.act3 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.fc2 = nn.Linear(128, num_classes)  # [B, K]

    def forward_features(self, images: Tensor) -> Tensor:
        # The article has ReLU before pooling. Both rise with their input, so either order gives the same numbers, and
        # this one leaves ReLU a quarter of the elements.
        maps = self.act1(self.pool1(self.conv1(images)))
        return self.act2(self.pool2(self.conv2(maps)))  # [B, 64, H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        units = self.act3(self.fc1(features.flatten(1)))
        return self.fc2(self.dropout(units))


def _pooled(side: int, padding: int) -> int:
    """Length of a side after a 3x3 convolution with `padding` and 2x2 pooling."""
    return (side + 2 * padding - 2) // 2
