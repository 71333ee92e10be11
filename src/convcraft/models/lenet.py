"""LeNet-5.

LeCun, Bottou, Bengio, Haffner 1998, "Gradient-Based Learning Applied to Document Recognition", Proc. IEEE 86(11),
section II.B and figure 2. Kept: 5x5 kernels, 6 and 16 maps, average pooling, 120 and 84 units, tanh, the 32x32 frame.

Where we deviate, as nearly everybody does since:
- C3 sees all 6 maps of S2 (the paper's table I connects some, to save computation);
- S2 and S4 are plain averages (the paper scales and shifts each map by two learned numbers);
- the output is linear and gives logits for cross-entropy (the paper measures distances to drawn 7x12 characters);
- tanh(x) instead of 1.7159 tanh(2x/3), and Xavier start values instead of U(-2.4/fan_in, 2.4/fan_in).
With these, ten classes and one channel it has 61,706 parameters.
"""

from __future__ import annotations

from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.models.initialise import initialise_he, initialise_xavier
from convcraft.models.network import Network

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU}

PAPER_SIZE = 32  # pixels: the frame in which the paper centres a 28x28 digit
SMALL_SIZE = 28  # below, unpadded 5x5 kernels would eat up the map


class LeNet5(Network):
    """LeNet-5 for images of any size from 4x4 and any number of channels.

    Padding: images of 32x32 and more are convolved unpadded, as in the paper. Smaller ones get a border of 2 zeros
    in C1, which makes 28x28 the paper's 32x32. Below 28 C3 pads by 2 as well ("same" padding), so that 8x8 still has
    2x2 maps at the end. The flattened size follows from the image size.

    Args:
        num_classes: K, outputs.
        in_channels: C, 1 for grey, 3 for RGB.
        image_size: height, width in pixels.
        dropout: share of the 84 units blanked while training (the paper has none).
        activation: "tanh" as in the paper (default: the name promises the paper's network) or "relu".
    """

    classifier_name = "output"
    smallest_size = 4

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 1,
        image_size: tuple[int, int] = (28, 28),
        dropout: float = 0.0,
        *,
        activation: str = "tanh",
    ) -> None:
        super().__init__(num_classes, in_channels, image_size)
        if activation not in tuple(ACTIVATIONS):
            raise UserError(
                f"activation is {activation!r}", "tanh or relu", "Set model.args.activation to one of them."
            )
        squash = ACTIVATIONS[activation]  # one module per place, so that each can be hooked and explained
        padding_c1 = 0 if min(image_size) >= PAPER_SIZE else 2
        padding_c3 = 0 if min(image_size) >= SMALL_SIZE else 2
        height, width = (_pooled(_pooled(side, padding_c1), padding_c3) for side in image_size)

        # Shapes for 28x28 and 32x32 images:
        self.c1 = nn.Conv2d(in_channels, 6, kernel_size=5, padding=padding_c1)  # [B, 6, 28, 28]
        self.act1 = squash()
        self.s2 = nn.AvgPool2d(2)  # [B, 6, 14, 14]
        self.c3 = nn.Conv2d(6, 16, kernel_size=5, padding=padding_c3)  # [B, 16, 10, 10]
        self.act3 = squash()
        self.s4 = nn.AvgPool2d(2)  # [B, 16, 5, 5]
        self.c5 = nn.Linear(16 * height * width, 120)  # [B, 400] -> [B, 120]; the paper: 120 kernels of 5x5 on 5x5
        self.act5 = squash()
        self.f6 = nn.Linear(120, 84)  # [B, 84]
        self.act6 = squash()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(84, num_classes)  # [B, K]

        if activation == "tanh":
            initialise_xavier(self)
        else:
            initialise_he(self)

    def forward_features(self, images: Tensor) -> Tensor:
        maps = self.s2(self.act1(self.c1(images)))
        return self.s4(self.act3(self.c3(maps)))  # [B, 16, H', W']

    def forward_head(self, features: Tensor) -> Tensor:
        units = self.act5(self.c5(features.flatten(1)))
        units = self.act6(self.f6(units))
        return self.output(self.dropout(units))


def _pooled(side: int, padding: int) -> int:
    """Length of a side after a 5x5 convolution with `padding` and 2x2 pooling."""
    return (side + 2 * padding - 4) // 2
