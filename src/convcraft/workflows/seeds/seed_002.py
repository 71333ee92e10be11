"""Seed 002: convolution by hand in NumPy, as the article writes it, and what its formula says instead."""

from __future__ import annotations

import traceback
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.workflows.seeds.convolution_formula import written_formula
from convcraft.workflows.seeds.program import STOPS, WRONG, Diagnosis, Program, Promise, Task

TASK = Task("one image", num_classes=1, image_shape=(1, 28, 28), train_images=0, test_images=0)
PROMISES = (
    Promise("TensorFlow or PyTorch", "section 1.4 promises the convolution in TensorFlow and PyTorch"),
    Promise("heat map", "section 5.4 promises heat maps of kernel and image"),
    Promise("padding", "section 5.3 asks to mind the border"),
    # The text does not name these two; a convolution layer has them, and the repair gives them.
    Promise("stride", "a convolution layer has a stride"),
    Promise("dilation", "a convolution layer has a dilation"),
)

# The listing of section 5.2.
SOURCE = """\
import numpy as np

def conv2d(image, kernel):
    output = np.zeros((image.shape[0] - kernel.shape[0] + 1, image.shape[1] - kernel.shape[1] + 1))
    for i in range(output.shape[0]):
        for j in range(output.shape[1]):
            output[i, j] = np.sum(image[i:i+kernel.shape[0], j:j+kernel.shape[1]] * kernel)
    return output
"""

REPAIRED = """\
import matplotlib.pyplot as plt
import numpy as np
import torch

def conv2d(image, kernel, stride=1, padding=0, dilation=1):
    image = np.pad(image.astype(np.float64), padding)
    reach = [(side - 1) * dilation + 1 for side in kernel.shape]
    if image.shape[0] < reach[0] or image.shape[1] < reach[1]:
        raise ValueError(f'a kernel that reaches over {reach} does not fit into {image.shape}')
    output = np.zeros([(side - length) // stride + 1 for side, length in zip(image.shape, reach)])
    for i in range(output.shape[0]):
        for j in range(output.shape[1]):
            top, left = i * stride, j * stride
            window = image[top:top + reach[0]:dilation, left:left + reach[1]:dilation]
            output[i, j] = np.sum(window * kernel)
    return output

image, kernel = np.random.rand(28, 28), np.random.rand(3, 3)
response = conv2d(image, kernel, stride=2, padding=1, dilation=2)
same = torch.conv2d(torch.tensor(image)[None, None], torch.tensor(kernel)[None, None], None, 2, 1, 2)
print('difference to torch', np.abs(response - same[0, 0].numpy()).max())
plt.imshow(response)
plt.savefig('response.png')
"""


def as_written() -> Program:
    return Program(SOURCE, TASK, promises=PROMISES)


def repaired() -> Program:
    return Program(REPAIRED, TASK, promises=PROMISES)


def written_conv2d(image: NDArray[np.floating], kernel: NDArray[np.floating]) -> NDArray[np.float64]:
    """The function of the listing itself: one image, one kernel, no stride, padding or channels.

    Args:
        image: [H, W].
        kernel: [h, w].

    Returns:
        float64 [H - h + 1, W - w + 1].
    """
    result: NDArray[np.float64] = _listed()["conv2d"](image, kernel)
    return result


@cache
def _listed() -> dict[str, Any]:
    """What the listing defines when it is run."""
    names: dict[str, Any] = {}
    exec(compile(SOURCE, "<listing>", "exec"), names)  # noqa: S102 - our own fixed text
    return names


def text_findings() -> list[Diagnosis]:
    """Formula and code on a kernel that is not symmetric, and the code on input that layers really get."""
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((6, 6)), rng.standard_normal((3, 3))
    found: list[Diagnosis] = []
    gap = float(np.abs(written_conv2d(image, kernel) - written_formula(image, kernel)).max())
    turned = float(np.abs(written_conv2d(image, kernel[::-1, ::-1]) - written_formula(image, kernel)).max())
    if gap > 1e-6:
        cause = (
            f"the formula runs the kernel backwards, the code does not: they differ by up to {gap:.2f} on a random "
            f"image; with the kernel turned by 180 degrees they agree to {turned:.0e}"
        )
        fix = "The code computes what every framework calls convolution (cross-correlation): mend the formula."
        found.append(Diagnosis("formula against code", WRONG, "text, sections 2 and 4.2", cause, fix))
    for check, what, images, fix in (
        ("no batch", "a batch of 4 images", rng.standard_normal((4, 6, 6)), "Add axes for batch and channels."),
        ("kernel too large", "a kernel larger than the image", image[:2, :2], "Say which size does not fit which."),
    ):
        try:
            written_conv2d(images, kernel)
        except ValueError as error:
            places = [item.lineno for item in traceback.extract_tb(error.__traceback__) if item.filename == "<listing>"]
            where = f"line {places[-1]}: {SOURCE.splitlines()[(places[-1] or 1) - 1].strip()}"
            found.append(Diagnosis(check, STOPS, where, f"{what} stops with: {str(error).strip()}", fix))
    return found
