"""The article's formula of convolution, letter by letter, to stand beside its code."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def written_formula(image: NDArray[np.floating], kernel: NDArray[np.floating]) -> NDArray[np.float64]:
    """Seed 002's formula: (f * g)[k, l] = sum over i, j of f[i][j] g[k - i][l - j], where both indices exist.

    This is convolution as mathematics has it: the kernel runs backwards. The article's sums leave its borders out;
    returned is the part in which kernel and image overlap fully, so that it can stand beside the article's function.

    Args:
        image: f, [H, W].
        kernel: g, [h, w].

    Returns:
        float64 [H - h + 1, W - w + 1].
    """
    height, width = kernel.shape
    output = np.zeros((image.shape[0] - height + 1, image.shape[1] - width + 1))
    for row in range(output.shape[0]):
        for column in range(output.shape[1]):
            k, l = row + height - 1, column + width - 1  # noqa: E741 - the formula's letters
            output[row, column] = sum(
                image[i, j] * kernel[k - i, l - j]
                for i in range(row, row + height)
                for j in range(column, column + width)
            )
    return output
