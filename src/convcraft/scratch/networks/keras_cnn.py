"""The Keras network of the article on saving and fine-tuning ("seed 004"), repaired with padding="same"."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from convcraft.scratch.checks import Array, refuse
from convcraft.scratch.initialise import initialise_xavier
from convcraft.scratch.layers import Conv2d, Dropout, Flatten, Linear, MaxPool2d, ReLU
from convcraft.scratch.module import Chain


class KerasCNN(Chain):
    """Images [B, in_channels, H, W] of at least 16x16 -> logits [B, num_classes]; flattened in Keras's order."""

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> None:
        rng = np.random.default_rng() if rng is None else rng
        height, width = (side // 16 for side in image_size)

        # Shapes for 28x28 images:
        self.conv1 = Conv2d(in_channels, 32, kernel_size=3, padding=1, rng=rng)  # [B, 32, 28, 28]
        self.act1 = ReLU()
        self.pool1 = MaxPool2d(2)  # [B, 32, 14, 14]
        self.conv2 = Conv2d(32, 64, kernel_size=3, padding=1, rng=rng)
        self.act2 = ReLU()
        self.pool2 = MaxPool2d(2)  # [B, 64, 7, 7]
        self.conv3 = Conv2d(64, 64, kernel_size=3, padding=1, rng=rng)
        self.act3 = ReLU()
        self.pool3 = MaxPool2d(2)  # [B, 64, 3, 3]
        self.conv4 = Conv2d(64, 64, kernel_size=3, padding=1, rng=rng)
        self.act4 = ReLU()
        self.pool4 = MaxPool2d(2)  # [B, 64, 1, 1]
        self.flatten = Flatten(channels_last=True)
        self.dense1 = Linear(64 * height * width, 64, rng=rng)
        self.act5 = ReLU()
        self.dropout = Dropout(dropout, rng)
        self.dense2 = Linear(64, num_classes, rng=rng)  # [B, K]
        initialise_xavier(self, rng)


LAYERS = ("conv1", "conv2", "conv3", "conv4", "dense1", "dense2")  # those with weights, in Keras's order


def state_from_keras(weights: Sequence[Array]) -> dict[str, Array]:
    """What `keras_model.get_weights()` gives, as a state dict of `KerasCNN`.

    Keras stores a convolution's kernel as [height, width, in, out] and a dense layer's as [in, out]; here they are
    [out, in, height, width] and [out, in]. The first dense layer needs no more than that, since this network flattens
    in Keras's order (row, column, channel).

    Args:
        weights: kernel, bias, kernel, bias, ... of the six layers.
    """
    if len(weights) != 2 * len(LAYERS):
        raise refuse(f"{len(weights)} arrays", f"{2 * len(LAYERS)}: kernel and bias of {LAYERS}", "Pass get_weights().")
    state = {}
    for name, kernel, bias in zip(LAYERS, weights[::2], weights[1::2], strict=True):
        axes = (3, 2, 0, 1) if kernel.ndim == 4 else (1, 0)
        state[f"{name}.weight"], state[f"{name}.bias"] = np.ascontiguousarray(kernel.transpose(axes)), bias
    return state
