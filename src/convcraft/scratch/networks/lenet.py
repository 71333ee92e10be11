"""LeNet-5. LeCun et al. 1998, "Gradient-Based Learning Applied to Document Recognition", figure 2.

Deviations are those of convcraft's torch LeNet-5: all maps connected, plain averages, linear output, plain tanh.
"""

from __future__ import annotations

import numpy as np

from convcraft.scratch.initialise import initialise_he, initialise_xavier
from convcraft.scratch.layers import AvgPool2d, Conv2d, Dropout, Flatten, Linear, ReLU, Tanh
from convcraft.scratch.module import Chain


class LeNet5(Chain):
    """Images [B, in_channels, 28, 28] or [B, in_channels, 32, 32] -> logits [B, num_classes].

    Args:
        image_size: height, width in pixels; below 32 the first convolution gets a border of 2 zeros, below 28 the
            second, too.
        dropout: share of the 84 units blanked in training (the paper has none).
        activation: "tanh" (the paper) or "relu".
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
        activation: str = "tanh",
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        squash = {"tanh": Tanh, "relu": ReLU}[activation]
        pads = 0 if min(image_size) >= 32 else 2, 0 if min(image_size) >= 28 else 2
        height, width = (((side + 2 * pads[0] - 4) // 2 + 2 * pads[1] - 4) // 2 for side in image_size)

        # Shapes for 28x28 images:
        self.c1 = Conv2d(in_channels, 6, kernel_size=5, padding=pads[0], rng=rng)  # [B, 6, 28, 28]
        self.act1 = squash()
        self.s2 = AvgPool2d(2)  # [B, 6, 14, 14]
        self.c3 = Conv2d(6, 16, kernel_size=5, padding=pads[1], rng=rng)  # [B, 16, 10, 10]
        self.act3 = squash()
        self.s4 = AvgPool2d(2)  # [B, 16, 5, 5]
        self.flatten = Flatten()  # [B, 400]
        self.c5 = Linear(16 * height * width, 120, rng=rng)
        self.act5 = squash()
        self.f6 = Linear(120, 84, rng=rng)
        self.act6 = squash()
        self.dropout = Dropout(dropout, rng)
        self.output = Linear(84, num_classes, rng=rng)  # [B, K]
        (initialise_xavier if activation == "tanh" else initialise_he)(self, rng)
