"""`convcraft evaluate --tta`: the mean over views of each test image, the views chosen on validation images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from convcraft.data.image_set import ImageSet
from convcraft.data.loader import batch_size_for
from convcraft.data.sample import Progress
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.paired_gain import PairedGain
from convcraft.evaluation.predict_function import Predict, predict_function
from convcraft.evaluation.predictions import Predictions
from convcraft.evaluation.proper_scores import cross_entropies, labelled_targets
from convcraft.evaluation.test_time import View, flip_view, mean_over_views, shift_views
from convcraft.statistics import paired_difference_interval
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import RunDescription

SHIFT_SHARE = 1 / 32  # of the shorter side: one pixel of a digit, seven of a photo of 224 pixels
CHOOSE_IMAGES = 2000  # validation images that views are tried on, at most
CHUNK_IMAGES = 512  # whose pixels are held at a time


@dataclass(frozen=True, eq=False)
class ViewsMade:
    """What the mean over views says of the test images.

    names: of the views beside the plain image; none where none was good enough. notes: why each was taken or left.
    probabilities: float32 [N, K]. tried: some view was tried on validation images.
    """

    names: tuple[str, ...]
    notes: tuple[str, ...]
    probabilities: NDArray[np.float32]
    tried: bool


@dataclass(frozen=True)
class ViewFigures:
    """gain: before is the plain prediction, after the mean over views."""

    names: tuple[str, ...]
    notes: tuple[str, ...]
    gain: PairedGain

    def to_dict(self) -> dict[str, Any]:
        return {"views": list(self.names), "notes": list(self.notes), **self.gain.to_dict()}

    @property
    def sentence(self) -> str:
        if not self.names:
            return "no view helps on validation images: the plain prediction stands"
        low, high = self.gain.interval
        change = f"{100 * self.gain.gain:+.2f} points (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"
        return f"{self.gain.after:.2%} with {', '.join(self.names)}: {change}"


def view_figures(made: ViewsMade, predictions: Predictions) -> ViewFigures:
    """Figures of saved views against the plain predictions of the same images."""
    targets = labelled_targets(predictions)
    before, after = predictions.labels == targets, made.probabilities.argmax(axis=1) == targets
    return ViewFigures(made.names, made.notes, PairedGain.of(before, after))


def make_views(
    run: RunDescription,
    model: nn.Module,
    images: ImageSet,
    held_out: ImageSet | None,
    device: str = "cpu",
    progress: Progress | None = None,
) -> ViewsMade:
    """Choose views on validation images, and predict the test images with them. The model ends on the CPU.

    Args:
        held_out: validation images; None where the run has none.
    """
    size = batch_size_for(run.preprocess)
    predict = predict_function(model.to(accelerator_of(device)), run.preprocess, run.config.training.loss, size)
    views, notes = choose_views(run, predict, held_out, progress)
    parts = []
    for start in range(0, len(images), CHUNK_IMAGES):
        ids = np.arange(start, min(start + CHUNK_IMAGES, len(images)))
        parts.append(mean_over_views(predict, images.pixels_of(ids), views))
        if progress is not None:
            progress(start + len(ids), len(images), "views")
    model.cpu()
    names = tuple(view.name for view in views)
    return ViewsMade(names, notes, np.concatenate(parts), tried=held_out is not None)


def choose_views(
    run: RunDescription, predict: Predict, held_out: ImageSet | None, progress: Progress | None = None
) -> tuple[tuple[View, ...], tuple[str, ...]]:
    """Mirrored, and moved by a 32nd of the size, each where it does not hurt; and a sentence on either.

    A mirrored view is taken without a trial where training mirrored its images. Without validation images it is left
    out otherwise, and the shifts are taken: a small shift keeps what an image shows.
    """
    judged = None if held_out is None else JudgedImages.of_set(held_out, CHOOSE_IMAGES)
    pixels = max(1, round(SHIFT_SHARE * min(run.preprocess.height, run.preprocess.width)))
    views: tuple[View, ...] = ()
    notes = []
    if run.config.augment.horizontal_flip:
        views += (flip_view(),)
        notes.append("Mirrored: taken, training mirrored its images.")
    elif judged is None:
        notes.append("Mirrored: left out, training did not mirror and there are no validation images to try it on.")
    else:
        views += _tried("Mirrored", (flip_view(),), predict, judged, notes)
    shifts = shift_views(pixels)
    if judged is None:
        views += shifts
        notes.append(f"Shifted by {pixels} px: taken, there are no validation images to try it on.")
    else:
        views += _tried(f"Shifted by {pixels} px", shifts, predict, judged, notes)
    if progress is not None:
        progress(1, 1, "choosing views")
    return views, tuple(notes)


def _tried(
    what: str, views: tuple[View, ...], predict: Predict, judged: JudgedImages, notes: list[str]
) -> tuple[View, ...]:
    """The views where they do not hurt on validation images, else none.

    They hurt where the log loss grows, or the accuracy falls beyond chance. Log loss first: it tells harm from fewer
    images than accuracy does.
    """
    plain, mean = predict(judged.pixels), mean_over_views(predict, judged.pixels, views)
    loss_before, loss_after = (float(cross_entropies(each, judged.targets).mean()) for each in (plain, mean))
    right = [each.argmax(axis=1) == judged.targets for each in (plain, mean)]
    hurts = loss_after > loss_before or paired_difference_interval(*right)[1] < 0
    losses = f"log loss {loss_before:.4f} before, {loss_after:.4f} with it"
    notes.append(f"{what}: {'left out' if hurts else 'taken'}, on {len(judged):,} validation images {losses}.")
    return () if hurts else views
