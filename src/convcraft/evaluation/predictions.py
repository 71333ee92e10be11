"""From a model and batches of images to probabilities with names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from convcraft.data.sample import Progress
from convcraft.errors import UserError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, eq=False)
class Predictions:
    """What a model says about N images, and what they are where that is known.

    classes: K names; column k of `probabilities` belongs to classes[k], whichever classes occur in `targets`.
    probabilities: float32 [N, K], rows sum to 1.
    targets: int64 [N], index into `classes`; None where nobody labelled the images.
    names: N names for people (`Sample.source`).

    Raises:
        UserError: shapes that disagree, rows that are no probabilities, or a target outside 0..K-1.
    """

    classes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    targets: NDArray[np.int64] | None
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_probabilities(self.probabilities, len(self.names), len(self.classes))
        if self.targets is not None:
            _check_targets(self.targets, len(self.names), len(self.classes))

    def __len__(self) -> int:
        return len(self.names)

    @property
    def labels(self) -> NDArray[np.int64]:
        """The most probable class of each image, int64 [N]; of equals the first."""
        return self.probabilities.argmax(axis=1).astype(np.int64)

    @property
    def confidence(self) -> NDArray[np.float32]:
        """The probability of that class, float32 [N]."""
        return self.probabilities.max(axis=1)


def _check_probabilities(probabilities: NDArray[np.float32], num_images: int, num_classes: int) -> None:
    if probabilities.shape != (num_images, num_classes) or num_classes < 1:
        raise UserError(
            f"probabilities of shape {list(probabilities.shape)}",
            f"[{num_images}, {num_classes}]: one row per name, one column per class",
            "Check that the model's head has as many outputs as the run has classes.",
        )
    sums = probabilities.sum(axis=1, dtype=np.float64)
    # Written so that NaN fails as well; float32 rows of a thousand classes sum to 1 within about 1e-5.
    if not (np.abs(sums - 1) < 1e-3).all() or not (probabilities >= 0).all():
        bad = int(np.flatnonzero(~((np.abs(sums - 1) < 1e-3) & (probabilities >= 0).all(axis=1)))[0])
        raise UserError(
            f"row {bad} is {probabilities[bad, :4]}... with sum {sums[bad]:g}",
            "probabilities that sum to 1",
            "Pass softmax(logits); NaN there means that the weights or the images hold NaN.",
        )


def _check_targets(targets: NDArray[np.int64], num_images: int, num_classes: int) -> None:
    if targets.shape != (num_images,) or not np.issubdtype(targets.dtype, np.integer):
        raise UserError(
            f"targets {targets.dtype} {list(targets.shape)}", f"int64 [{num_images}]", "Give one class index per image."
        )
    if num_images and (targets.min() < 0 or targets.max() >= num_classes):
        raise UserError(
            f"targets from {targets.min()} to {targets.max()}",
            f"class indices from 0 to {num_classes - 1}",
            "Index the labels by the class list of the run, not by the classes found in this split.",
        )


def softmax(logits: ArrayLike) -> NDArray[np.float32]:
    """Probabilities float32 [N, K] of logits [N, K]; computed in float64, shifted by the row's maximum."""
    values = np.asarray(logits, dtype=np.float64)
    powers = np.exp(values - values.max(axis=-1, keepdims=True, initial=-np.inf))
    return (powers / powers.sum(axis=-1, keepdims=True)).astype(np.float32)


class ImageBatch(Protocol):
    """What is needed of a Batch: images float32 [B, C, H, W], normalised."""

    @property
    def images(self) -> torch.Tensor: ...


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; then every module's own training flag is as before.

    `model.train()` afterwards would wake a BatchNorm that was frozen by hand, so each flag is kept by itself.
    """
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


def predict_logits(
    model: torch.nn.Module,
    batches: Iterable[ImageBatch],
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
    num_images: int = 0,
) -> NDArray[np.float32]:
    """Logits float32 [N, K] of all images, in the order of the batches.

    Args:
        model: on `device` already; its weights, buffers and training flags stay as they are.
        progress: called as progress(images done, num_images, "predict") after each batch.
        num_images: how many are coming, 0 where that is not known; only for the progress bar.

    Raises:
        UserError: there are no images, or the model does not answer with [B, K].
    """
    import torch

    rows: list[NDArray[np.float32]] = []
    done = 0
    with evaluating(model), torch.inference_mode():
        for batch in batches:
            logits = model(batch.images.to(device, non_blocking=True))
            if logits.ndim != 2 or len(logits) != len(batch.images):
                raise UserError(
                    f"the model answered {list(batch.images.shape)} with {list(logits.shape)}",
                    f"logits [{len(batch.images)}, K]",
                    "Give a network with a classification head (timm: num_classes above 0).",
                )
            rows.append(logits.float().cpu().numpy())
            done += len(logits)
            if progress is not None:
                progress(done, num_images, "predict")
    if not rows:
        raise UserError("no images", "at least one batch", "Check that the split is not empty.")
    return np.concatenate(rows)
