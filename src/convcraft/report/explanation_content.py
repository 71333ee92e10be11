"""What a drawn explanation is made from, as a page or as one picture; and how heat becomes colour."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap
from numpy.typing import NDArray

from convcraft.explain.kernels import Kernels
from convcraft.explain.nearest import Neighbour

# Perceptually uniform, so that equal steps of heat look equal, and told apart by colour-blind readers. Its hue rises
# with the heat as its lightness does: lightness alone would be lost over a picture that has its own.
COLOUR_MAP = "viridis"
HEAT_OPACITY = 0.65  # of the colours over the grey picture, which stays readable beneath
DARKEST, BRIGHTEST = 40, 215  # of that grey picture: black and white would hide the colours
MADE_BY = "convcraft explain"


@dataclass(frozen=True, eq=False)
class DrawnHeat:
    """A heat map, float32 [H, W] in 0..1, and how it was made.

    layer: None for methods that look at pixels.
    """

    method: str
    layer: str | None
    heat: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NearPicture:
    """A near training image and its pixels, uint8 [H, W, C]."""

    neighbour: Neighbour
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ExplainedImage:
    """One picture.

    pixels: uint8 [H, W, C], as the network saw it.
    ranking: classes with their probabilities, falling.
    class_name, probability: what the maps explain.
    feature_maps: float32 [C', h, w], signed, of the page's layer; None where there is none.
    """

    name: str
    pixels: NDArray[np.uint8]
    ranking: Sequence[tuple[str, float]]
    class_name: str
    probability: float
    heat_maps: Sequence[DrawnHeat]
    neighbours: Sequence[NearPicture] = ()
    feature_maps: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class MethodNote:
    """What a reader should know of a method: what a warm pixel means, and what the checks found ("" without any).

    verdict, sentence: of `explain.trust.Trust`.
    """

    method: str
    description: str
    verdict: str = ""
    sentence: str = ""

    @property
    def warning(self) -> str:
        """Three words beside its maps; "" where it is trusted or nothing was checked."""
        return {"unproven": "not proven here", "broken": "do not believe"}.get(self.verdict, "")


@dataclass(frozen=True, eq=False, kw_only=True)
class ExplanationContent:
    """All of it.

    summary: rows (what, value).
    methods: in the order of each image's heat maps. checked_on: the images of the checks, in words; "" without.
    remarks: sentences about the whole (methods that cannot run here).
    layer: whose feature maps are shown. near_note: what was compared, or why nothing was; "" where nobody asked.
    """

    title: str
    summary: Sequence[tuple[str, object]]
    methods: Sequence[MethodNote]
    checked_on: str
    images: Sequence[ExplainedImage]
    remarks: Sequence[str] = field(default=())
    layer: str | None = None
    kernels: Kernels | None = None
    near_note: str = ""


def overlay(pixels: NDArray[np.uint8], heat: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Heat float32 [H, W] in 0..1 in colour over the picture uint8 [H, W, C] in grey: uint8 [H, W, 3]."""
    grey = DARKEST + (BRIGHTEST - DARKEST) / 255 * pixels.astype(np.float64).mean(axis=-1, keepdims=True)
    colours = matplotlib.colormaps[COLOUR_MAP](heat)[..., :3] * 255
    return np.asarray(np.round((1 - HEAT_OPACITY) * grey + HEAT_OPACITY * colours), np.uint8)


def laid_over_grey() -> ListedColormap:
    """The colours of a colour bar: those that `overlay` gives over a picture of middle grey."""
    heat = np.linspace(0, 1, 256, dtype=np.float32)[None]
    return ListedColormap(overlay(np.full((1, 256, 1), 128, np.uint8), heat)[0] / 255)
