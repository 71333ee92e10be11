"""The small CNN of the article on MNIST ("seed 001"), repaired: it flattens by image and has an output per class.

The article flattens to 64 * 8 * 8, where a 28x28 digit leaves 64 maps of 5x5: 64 images silently become 25 rows.
"""

from __future__ import annotations

import numpy as np

from convcraft.scratch.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from convcraft.scratch.module import Chain


class SeedCNN(Chain):
    """Images [B, in_channels, H, W] -> logits [B, num_classes].

    Args:
        image_size: height, width in pixels, at least 4; below 10 the convolutions get a border of one zero.
        dropout: share of the 128 units blanked in training.
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        pad = 0 if min(image_size) >= 10 else 1
        height, width = (((side + 2 * pad - 2) // 2 + 2 * pad - 2) // 2 for side in image_size)

        # Shapes for 28x28 images. ReLU after pooling gives the same numbers as before it, from a quarter of the work.
        self.conv1 = Conv2d(in_channels, 32, kernel_size=3, padding=pad, rng=rng)  # [B, 32, 26, 26]
        self.pool1 = MaxPool2d(2)  # [B, 32, 13, 13]
        self.act1 = ReLU()
        self.conv2 = Conv2d(32, 64, kernel_size=3, padding=pad, rng=rng)  # [B, 64, 11, 11]
        self.pool2 = MaxPool2d(2)  # [B, 64, 5, 5]
        self.act2 = ReLU()
        self.flatten = Flatten()  # [B, 1600]
        self.fc1 = Linear(64 * height * width, 128, rng=rng)
        self.act3 = ReLU()
        self.dropout = Dropout(dropout, rng)
        self.fc2 = Linear(128, num_classes, rng=rng)  # [B, K]
