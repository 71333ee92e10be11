"""What a network says of a whole set of images, as the preprocessing contract gives them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.data.image_set import ImageSet
from convcraft.data.loader import eval_batches
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.predictions import predict_logits
from convcraft.models.classifier import only_classifier
from convcraft.training.devices import accelerator_of

BATCH_SIZE = 256  # at most; `eval_batches` takes fewer large images


def logits_of(
    model: nn.Module, images: ImageSet, device: str = "cpu", progress: Progress | None = None, num_workers: int = 0
) -> NDArray[np.float32]:
    """float32 [N, K] of all images, in evaluation mode. The model ends on the CPU."""
    return outputs_of(model, images, device=device, progress=progress, num_workers=num_workers).logits


def outputs_of(
    model: nn.Module,
    images: ImageSet,
    *,
    features: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    num_workers: int = 0,
) -> Outputs:
    """Logits of all images in evaluation mode, and where asked the classifier's input. The model ends on the CPU."""
    place = accelerator_of(device)
    batches = eval_batches(images, BATCH_SIZE, num_workers)
    with maybe_inputs(model, features) as kept:
        logits = predict_logits(model.to(place), batches, place, progress, len(images))
    model.cpu()
    return Outputs(logits, as_features(kept))


@contextmanager
def maybe_inputs(model: nn.Module, wanted: bool) -> Iterator[list[NDArray[np.float32]] | None]:
    """`classifier_inputs` where they are wanted, else None."""
    if not wanted:
        yield None
        return
    with classifier_inputs(model) as kept:
        yield kept


@contextmanager
def classifier_inputs(model: nn.Module) -> Iterator[list[NDArray[np.float32]] | None]:
    """While it lasts, each pass of the network appends its classifier's input, float32 [B, D]; None where the network
    has no single classifier."""
    try:
        _, classifier = only_classifier(model)
    except UserError:
        yield None
        return
    kept: list[NDArray[np.float32]] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        kept.append(inputs[0].detach().float().cpu().numpy())

    handle = classifier.register_forward_pre_hook(keep)
    try:
        yield kept
    finally:
        handle.remove()


def as_features(kept: list[NDArray[np.float32]] | None) -> NDArray[np.float32] | None:
    """Rows [N, D] of what `classifier_inputs` kept; None where there are none, or they are no rows."""
    return np.concatenate(kept) if kept and all(rows.ndim == 2 for rows in kept) else None
