"""The Keras network of an article on MNIST ("seed 004": 从零开始大模型开发与微调), repaired.

As written, the article's network cannot be built. Its 3x3 convolutions have no padding, so a 28x28 digit shrinks
28 - 26 - 13 - 11 - 5 - 3 - 1, and the fourth convolution stops with a ValueError: a 3x3 kernel finds 1x1 maps.

The repair is one keyword, `padding="same"` in the four convolutions: 28 - 14 - 7 - 3 - 1. All layers, their order and
their sizes stay. (Without the fourth convolution it would also run, but would no longer be the article's network; with
padding in the fourth alone, eight of its nine weights would only ever see zeros. The article's prose counts three
poolings, its code has four; the code counts.) The softmax at the end is left out: the loss takes logits.

The repaired network in Keras, to which this one is equal number by number:

    layers = keras.layers
    keras.Sequential([
        layers.Conv2D(32, (3, 3), activation="relu", padding="same", input_shape=(28, 28, 1)),
        layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu", padding="same"), layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu", padding="same"), layers.MaxPooling2D((2, 2)),
        layers.Conv2D(64, (3, 3), activation="relu", padding="same"), layers.MaxPooling2D((2, 2)),
        layers.Flatten(),
        layers.Dense(64, activation="relu"),
        layers.Dense(10, activation="softmax"),
    ])

Taking weights over from Keras, layer by layer in this order (KERAS_ORDER):
- convolution: kernel [height, width, in, out] -> weight [out, in, height, width], that is `transpose(3, 2, 0, 1)`;
- dense: kernel [in, out] -> weight [out, in], that is `transpose(1, 0)`. Nothing else for the first dense layer either:
  the maps are flattened here in Keras's order (height, width, channel);
- biases as they are. "same" pads one zero on every side (3x3, stride 1) in both; 2x2 pooling drops an odd last row.
"""

from __future__ import annotations

from torch import Tensor, nn

from convcraft.models.initialise import initialise_xavier
from convcraft.models.network import Network

KERAS_ORDER = ("conv1", "conv2", "conv3", "conv4", "dense1", "dense2")  # the layers that have weights


class KerasCNN(Network):
    """Four 3x3 convolutions, each followed by 2x2 max pooling, and two dense layers: 97,482 parameters for digits.

    Start values are Keras's own (Xavier uniform, biases 0).

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels, at least 16x16: four poolings halve it four times.
        dropout: share of the 64 units blanked while training (the article's text names it, its code has none).
    """

    classifier_name = "dense2"
    smallest_size = 16

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        height, width = (side // 16 for side in image_size)

        # Shapes for 28x28 images:
        self.conv1 = nn.Conv2d(in_channels, 32, kernel_size=3, padding=1)  # [B, 32, 28, 28]
        self.act1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)  # [B, 32, 14, 14]
        self.conv2 = nn.Conv2d(32, 64, kernel_size=3, padding=1)  # [B, 64, 14, 14]
        self.act2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)  # [B, 64, 7, 7]
        self.conv3 = nn.Conv2d(64, 64, kernel_size=3, padding=1)  # [B, 64, 7, 7]
        self.act3 = nn.ReLU()
        self.pool3 = nn.MaxPool2d(2)  # [B, 64, 3, 3]
        self.conv4 = nn.Conv2d(64, 64, kernel_size=3, padding=1)  # [B, 64, 3, 3]
        self.act4 = nn.ReLU()
        self.pool4 = nn.MaxPool2d(2)  # [B, 64, 1, 1]
        self.dense1 = nn.Linear(64 * height * width, 64)  # [B, 64] -> [B, 64]
        self.act5 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.dense2 = nn.Linear(64, num_classes)  # [B, K]

        initialise_xavier(self)

    def forward_features(self, images: Tensor) -> Tensor:
        maps = self.pool1(self.act1(self.conv1(images)))
        maps = self.pool2(self.act2(self.conv2(maps)))
        maps = self.pool3(self.act3(self.conv3(maps)))
        return self.pool4(self.act4(self.conv4(maps)))  # [B, 64, H/16, W/16]

    def forward_head(self, features: Tensor) -> Tensor:
        units = features.permute(0, 2, 3, 1).flatten(1)  # height, width, channel: the order of Keras's Flatten
        units = self.act5(self.dense1(units))
        return self.dense2(self.dropout(units))
