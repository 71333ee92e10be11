"""A predictor as a plain function of pixels: what robustness, test-time augmentation and ensembles ask of a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError
from convcraft.evaluation.predictions import ImageBatch, predict_logits
from convcraft.evaluation.probabilities import probabilities_of

if TYPE_CHECKING:
    import torch

Pixels = NDArray[np.uint8]  # [N, H, W, C]
# uint8 [N, H, W, C] of the network's size, to probabilities float32 [N, K].
Predict = Callable[[Pixels], NDArray[np.float32]]


@dataclass(frozen=True)
class _Batch:
    images: torch.Tensor


def pixel_batches(pixels: Pixels, preprocess: Preprocess, batch_size: int = 256) -> Iterator[ImageBatch]:
    """Pixels of the network's size as batches for `predict_logits`, normalised, in order."""
    import torch

    for start in range(0, len(pixels), batch_size):
        yield _Batch(torch.from_numpy(preprocess.normalise(pixels[start : start + batch_size])))


def predict_function(
    model: torch.nn.Module, preprocess: Preprocess, loss: str = "cross_entropy", batch_size: int = 256
) -> Predict:
    """A network as such a function; on the device where it is.

    Args:
        preprocess: normalises the pixels; they must have its size already.
        loss: `training.loss` of the run, which says what logits mean.
    """

    def predict(pixels: Pixels) -> NDArray[np.float32]:
        batches = pixel_batches(pixels, preprocess, batch_size)
        return probabilities_of(predict_logits(model, batches, next(model.parameters()).device), loss)

    return predict


def probabilities_from(predict: Predict, pixels: Pixels, num_classes: int | None = None) -> NDArray[np.float32]:
    """What a predictor says, checked: float32 [N, K].

    Raises:
        UserError: another shape, fewer columns than `num_classes`, or values that are no probabilities.
    """
    answer = np.asarray(predict(pixels))
    if answer.ndim != 2 or len(answer) != len(pixels) or answer.shape[1] < max(1, num_classes or 1):
        expected = f"[{len(pixels)}, {num_classes or 'K'}]: one row per image, one column per class"
        raise UserError(f"predictions of shape {list(answer.shape)}", expected, "Give a function of whole batches.")
    if not ((answer >= 0) & (answer <= 1 + 1e-3)).all():  # false for NaN as well
        fix = "Pass softmax(logits); NaN means that the weights or the images hold NaN."
        raise UserError(f"predictions from {answer.min():g} to {answer.max():g}", "probabilities in 0..1", fix)
    return answer.astype(np.float32, copy=False)


def is_right(predict: Predict, pixels: Pixels, targets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether the most probable class is the true one, bool [N]; of equals the first counts."""
    probabilities = probabilities_from(predict, pixels, int(targets.max(initial=0)) + 1)
    return np.asarray(probabilities.argmax(axis=1) == targets)
