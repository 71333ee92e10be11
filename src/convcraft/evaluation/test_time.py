"""Test-time augmentation: the mean of what a model says about several views of each image.

Views are functions of pixels, so that any predictor can be asked. The plain image is always the first view. With V
further views prediction takes V + 1 times as long; `view_gain` says whether it is worth that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.judged_images import JudgedImages
from convcraft.evaluation.moves import cropped, mirrored, rotated, shifted
from convcraft.evaluation.paired_gain import PairedGain
from convcraft.evaluation.predict_function import Pixels, Predict, probabilities_from


@dataclass(frozen=True)
class View:
    """change: uint8 [N, H, W, C] to the same shape."""

    name: str
    change: Callable[[Pixels], Pixels]


def flip_view() -> View:
    """Left and right exchanged. Only where a mirrored image keeps its class: not for digits, letters, sides."""
    return View("mirrored", mirrored)


def shift_views(pixels: int, fill: str = "edge") -> tuple[View, ...]:
    """Moved up, down, left and right by so many pixels."""
    if pixels < 1:
        raise UserError(f"a shift of {pixels} pixels", "1 or more", "Leave the view out.")
    ways = {"up": (-1, 0), "down": (1, 0), "left": (0, -1), "right": (0, 1)}
    return tuple(
        View(f"{pixels} px {way}", partial(shifted, down=pixels * down, right=pixels * right, fill=fill))
        for way, (down, right) in ways.items()
    )


def rotation_views(degrees: float, fill: str = "edge") -> tuple[View, ...]:
    """Turned by so many degrees, one way and the other."""
    if not 0 < degrees <= 180:
        raise UserError(f"a turn of {degrees:g} degrees", "more than 0, up to 180", "5 to 15 are usual.")
    turns = (-degrees, degrees)
    return tuple(View(f"turned {turn:+g}°", partial(rotated, degrees=turn, fill=fill)) for turn in turns)


def crop_views(share: float = 0.875) -> tuple[View, ...]:
    """The four corners and the centre, resized to the full size (Krizhevsky, Sutskever, Hinton 2012, section 4.1).

    Args:
        share: of each side that a crop shows.
    """
    if not 0 < share < 1:
        raise UserError(f"crops of {share:g} of the side", "more than 0, less than 1", "0.875 is usual.")
    far = 1 - share
    corners = {"top left": (0, 0), "top right": (0, far), "bottom left": (far, 0), "bottom right": (far, far)}
    places = {**corners, "centre": (far / 2, far / 2)}
    return tuple(
        View(f"{name} crop", partial(cropped, top=top, left=left, share=share)) for name, (top, left) in places.items()
    )


def mean_over_views(
    predict: Predict, pixels: Pixels, views: Sequence[View], progress: Progress | None = None
) -> NDArray[np.float32]:
    """Mean of the probabilities of the plain images and of every view, float32 [N, K].

    Raises:
        UserError: a view that changes the shape or the dtype.
    """
    return _plain_and_mean(predict, pixels, views, progress)[1]


def _plain_and_mean(
    predict: Predict, pixels: Pixels, views: Sequence[View], progress: Progress | None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    plain = probabilities_from(predict, pixels)
    total = plain.astype(np.float64)
    for done, view in enumerate(views, start=1):
        changed = view.change(pixels)
        if changed.shape != pixels.shape or changed.dtype != np.uint8:
            received = f"view {view.name!r} gives {changed.dtype} {list(changed.shape)}"
            raise UserError(received, f"uint8 {list(pixels.shape)}", "A view keeps the shape.")
        total += probabilities_from(predict, changed, plain.shape[1])
        if progress is not None:
            progress(done, len(views), "views")
    return plain, (total / (len(views) + 1)).astype(np.float32)


@dataclass(frozen=True)
class ViewGain:
    """What the views add to the plain prediction."""

    views: tuple[str, ...]
    gain: PairedGain
    num_available: int

    def to_dict(self) -> dict[str, Any]:
        return {"views": list(self.views), "num_available": self.num_available, **self.gain.to_dict()}


def view_gain(
    predict: Predict, images: JudgedImages, views: Sequence[View], progress: Progress | None = None
) -> ViewGain:
    """Accuracy of the mean over views against that of the plain prediction, with the paired interval of the gain.

    Choose views on validation images, and measure the chosen ones once on test images.
    """
    if not views:
        raise UserError("no views", "at least one", "Give flip_view(), shift_views(2) or others.")
    plain, mean = _plain_and_mean(predict, images.pixels, views, progress)
    before, after = (probabilities.argmax(axis=1) == images.targets for probabilities in (plain, mean))
    return ViewGain(tuple(view.name for view in views), PairedGain.of(before, after), images.num_available)
