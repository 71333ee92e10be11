"""The explanations of a call as the page and the picture show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.errors import UserError
from convcraft.explain.catalogue import METHODS
from convcraft.explain.feature_maps import feature_maps
from convcraft.explain.heat_maps import HeatMaps
from convcraft.explain.kernels import Kernels, kernels
from convcraft.explain.target_layer import target_layer
from convcraft.report.explanation_content import (
    DrawnHeat,
    ExplainedImage,
    ExplanationContent,
    MethodNote,
    NearPicture,
)
from convcraft.report.explanation_page import title_of
from convcraft.training.run_folder import RunDescription
from convcraft.workflows.explain_checks import MethodCheck


@dataclass(frozen=True, eq=False)
class Pictures:
    """What was given, and the network's answer.

    pixels: uint8 [N, H, W, C]. images: float32 [N, C, H, W], normalised, on the model's device.
    probabilities: float32 [N, K]. targets: int64 [N], the classes to explain.
    """

    names: tuple[str, ...]
    pixels: NDArray[np.uint8]
    images: Tensor
    probabilities: NDArray[np.float32]
    targets: Tensor


@dataclass(frozen=True, eq=False)
class Drawn:
    """A method's maps of all pictures, and what its check found."""

    method: str
    layer: str | None
    heat: HeatMaps
    found: MethodCheck | None


def drawn_content(
    run: RunDescription,
    model: nn.Module,
    pictures: Pictures,
    drawn: Sequence[Drawn],
    layer: str | None,
    near: Sequence[Sequence[NearPicture]],
    near_note: str,
    remarks: Sequence[str],
) -> ExplanationContent:
    place = next((each.layer for each in drawn if each.layer is not None), None) or _layer_of(model, pictures, layer)
    tapped = run.config.model.tapped_layers
    if tapped:
        layers = ", ".join(f"network.{name}" for name in tapped)
        said = f"The classifier also reads {layers}: heat of one layer leaves out what comes past it from those before."
        remarks = [*remarks, said]
    notes = [
        MethodNote(each.method, METHODS[each.method].description)
        if each.found is None
        else MethodNote(each.method, METHODS[each.method].description, each.found.verdict, each.found.sentence)
        for each in drawn
    ]
    images = []
    for row, (name, target) in enumerate(zip(pictures.names, pictures.targets.tolist(), strict=True)):
        probabilities = pictures.probabilities[row]
        order = np.argsort(-probabilities, kind="stable")
        images.append(
            ExplainedImage(
                name=name,
                pixels=pictures.pixels[row],
                ranking=[(run.classes[index], float(probabilities[index])) for index in order],
                class_name=run.classes[target],
                probability=float(probabilities[target]),
                heat_maps=[DrawnHeat(each.method, each.layer, each.heat[row]) for each in drawn],
                neighbours=near[row],
                feature_maps=None if place is None else feature_maps(model, pictures.images[row : row + 1], place),
            )
        )
    return ExplanationContent(
        title=title_of(len(images), run.config.model.name, run.data["name"]),
        summary=_summary(run),
        methods=notes,
        checked_on=" and ".join(dict.fromkeys(each.found.images for each in drawn if each.found is not None)),
        images=images,
        remarks=remarks,
        layer=place,
        kernels=_first_kernels(model),
        near_note=near_note,
    )


def _layer_of(model: nn.Module, pictures: Pictures, layer: str | None) -> str | None:
    """The layer whose maps are shown beside pixel methods; None for a network without any."""
    try:
        return target_layer(model, pictures.images, layer)[0]
    except UserError:
        return None


def _first_kernels(model: nn.Module) -> Kernels | None:
    """None for a network without a convolution."""
    return kernels(model) if any(isinstance(module, nn.Conv2d) for module in model.modules()) else None


def _summary(run: RunDescription) -> list[tuple[str, object]]:
    preprocess = run.preprocess
    colours = "grey" if preprocess.channels == 1 else "RGB"
    return [
        ("Run", run.folder),
        ("Data", run.data["name"]),
        ("Network", run.config.model.name),
        ("Input", f"{preprocess.height} x {preprocess.width} pixels, {colours}"),
        ("Classes", f"{len(run.classes):,}"),
    ]
