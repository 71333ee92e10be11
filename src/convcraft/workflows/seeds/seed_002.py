"""Seed 002: convolution by hand in NumPy, as the article writes it, and what its formula says instead."""

from __future__ import annotations

import numpy as np

from convcraft.workflows.seeds.convolution_by_hand import written_conv2d, written_formula
from convcraft.workflows.seeds.program import STOPS, WRONG, Diagnosis, Program, Promise, Task

TASK = Task("one image", num_classes=1, image_shape=(1, 28, 28), train_images=0, test_images=0)
PROMISES = (
    Promise(
        "TensorFlow or PyTorch", "section 1.4 promises the convolution in TensorFlow and PyTorch; neither is there"
    ),
    Promise("heat map", "section 5.4 promises heat maps of kernel and image; no picture and no code for one is there"),
    Promise("stride", "a convolution layer steps; this function always moves by one pixel"),
    Promise("padding", "section 5.3 asks to mind the border; this function pads nothing"),
    Promise("dilation", "kernels of other reach are not possible"),
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
    batch = rng.standard_normal((4, 6, 6))
    try:
        shape = written_conv2d(batch, kernel).shape
    except ValueError as error:
        cause = f"a batch of 4 images stops with: {str(error).strip()}"
        found.append(Diagnosis("no batch", STOPS, "line 7", cause, "Add axes for batch and channels."))
    else:
        cause = f"a batch of 4 images of 6x6 is taken for one picture and gives {shape}"
        found.append(Diagnosis("no batch", WRONG, "line 7", cause, "Add axes for batch and channels."))
    try:
        written_conv2d(image[:2, :2], kernel)
    except ValueError as error:
        cause = f"a kernel larger than the image stops with: {str(error).strip()}"
        found.append(Diagnosis("kernel too large", STOPS, "line 4", cause, "Say which size does not fit which."))
    return found
