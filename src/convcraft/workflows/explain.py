"""`convcraft explain`: what a run's answer for a picture rests on, and whether the heat maps may be believed."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from torch import Tensor, nn

from convcraft.data.dataset import TrainingData
from convcraft.data.given_pictures import read_pictures
from convcraft.data.sample import Progress
from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.explain.catalogue import METHODS, find_method
from convcraft.explain.deletion import Method
from convcraft.explain.heat_maps import HeatMaps
from convcraft.explain.target_layer import target_layer
from convcraft.report import explanation_page, explanation_sheet
from convcraft.report.explanation_content import NearPicture
from convcraft.training.allocator import keep_freed_memory
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import RunDescription, read_run
from convcraft.workflows.console import data_progress
from convcraft.workflows.explain_checks import CheckImages, MethodCheck, RememberedChecks, run_check
from convcraft.workflows.explain_content import Drawn, Pictures, drawn_content
from convcraft.workflows.explain_data import images_to_check, near_pictures, open_run_data
from convcraft.workflows.explain_request import (
    ALL,
    checked_out,
    chosen_methods,
    class_index,
    layer_name,
    pictures_to_explain,
)
from convcraft.workflows.load_model import load_model

PAGE = "explanation.html"
DEFAULT_METHOD = "grad-cam"
BATCH_PIXELS = 8 * 224 * 224  # of images whose gradients are computed at once
LARGEST_BATCH = 64


@dataclass(frozen=True)
class Explanation:
    """One heat map, in words and numbers.

    class_name, probability: the class that it explains, and how likely the network finds it.
    layer: None for methods that look at pixels.
    trusted: what the checks say of the method on this network; None where nothing was checked.
    warning: why it is not trusted, else None.
    """

    image: str
    class_name: str
    probability: float
    method: str
    layer: str | None
    trusted: bool | None
    warning: str | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "image": self.image,
            "class": self.class_name,
            "probability": self.probability,
            "method": self.method,
            "layer": self.layer,
            "trusted": self.trusted,
            "warning": self.warning,
        }


@dataclass(frozen=True)
class ExplainResult:
    """Explanations image by image, each in the order of the methods; the page that shows them."""

    run: Path
    explanations: tuple[Explanation, ...]
    page: Path
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "run": str(self.run),
            "explanations": [explanation.to_dict() for explanation in self.explanations],
            "page": str(self.page),
            "seconds": self.seconds,
        }


def explain(
    run: Path,
    images: Sequence[str],
    *,
    methods: Sequence[str] = (DEFAULT_METHOD,),
    layer: str | None = None,
    class_name: str | None = None,
    out: Path | None = None,
    num_neighbours: int = 5,
    check: bool = True,
    device: str = "auto",
    seed: int = 0,
    console: Console,
) -> ExplainResult:
    """Draw heat maps of a run's answers, and check each method on the run's own network.

    The run stays as it was, but for explain_checks.json, which remembers the checks, and the page. The test images
    stay closed.

    Args:
        images: files, folders or "-", as for `predict`.
        methods: names of `explain.catalogue.METHODS`, or "all": all that can run on this network.
        layer: for the methods that read one; None takes the last with a map.
        class_name: the class to explain; None takes the network's answer for each picture.
        out: a page (.html) or one picture (.png); None: RUN/explanation.html.
        num_neighbours: nearest training images on the page; 0 looks for none.
        check: whether methods are checked; those of checks made before are remembered.
        seed: of smooth-grad's noise and of the random weights in the checks.

    Raises:
        UserError: no such run, class, method or layer; a picture that cannot be read; a file at `out` that is not ours.
    """
    started = time.monotonic()
    description = read_run(run)
    names = chosen_methods(methods, layer)
    target = None if class_name is None else class_index(class_name, description.classes)
    page = checked_out(run / PAGE if out is None else out)
    draws_page = page.suffix.lower() != ".png"
    found = pictures_to_explain(images)
    model, weights = load_model(description)
    layer = layer_name(model, layer)
    place = accelerator_of(device)
    if place == "cpu":
        keep_freed_memory()
    model.to(place)
    pictures = _answered(description, model, place, found, target)
    needs_data = draws_page and num_neighbours > 0
    with data_progress(console) as progress:
        # An explicit name that cannot run here is an error; of "all", the others are drawn.
        drawn, remarks = _draw(model, pictures, names, layer, seed, progress, may_skip=ALL in methods)
        remembered = RememberedChecks(run, weights.sha256)
        known = {each.method: remembered.find(each.method, each.layer, seed) for each in drawn} if check else {}
        data, why_not = None, ""
        if needs_data or (check and not all(known.values())):
            data, why_not = open_run_data(description, progress)
        if check:
            on = _check_images(model, data, pictures, place) if not all(known.values()) else None
            drawn = [
                _checked(each, known[each.method], model, on, remembered, description, seed, progress) for each in drawn
            ]
        near: list[tuple[NearPicture, ...]] = [()] * len(pictures.names)
        near_note = ""
        if needs_data:
            near, near_note = _near(model, description, data, why_not, pictures, num_neighbours, device, progress)
    content = drawn_content(description, model, pictures, drawn, layer, near, near_note, remarks)
    (explanation_page.write_page if draws_page else explanation_sheet.write_sheet)(page, content)
    for each in drawn:
        if each.found is not None and each.found.warning is not None:
            console.print(f"warning: {each.method}: {each.found.warning}", highlight=False, markup=False)
    if len(drawn) == 1 and drawn[0].found is not None and not drawn[0].found.trusted:
        remarks = [*remarks, "--method all shows which methods stand the checks on this network."]
    for remark in remarks:
        console.print(f"note: {remark}", highlight=False, markup=False)
    return ExplainResult(run, _explanations(description, pictures, drawn), page, time.monotonic() - started)


def heat_maps_for(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    method: str = DEFAULT_METHOD,
    *,
    layer: str | None = None,
    seed: int = 0,
) -> HeatMaps:
    """Heat maps of some images, in batches that fit into memory; nothing is checked and nothing written.

    For a page's worth of pictures (the worst mistakes of a report): grad-cam takes a forward and a backward pass.

    Args:
        images: float32 [B, C, H, W], normalised, on the model's device.
        targets: int64 [B], the classes to explain.
        method: a name of `explain.catalogue.METHODS`.
        layer: for methods that read one; None takes the last with a map.
        seed: of methods with noise.

    Returns:
        float32 [B, H, W] in 0..1.

    Raises:
        UserError: as `find_method` and the method itself.
    """
    chosen = find_method(method)
    settings: dict[str, Any] = {"layer": layer}
    if "seed" in inspect.signature(chosen.function).parameters:
        settings["seed"] = seed
    size = max(1, min(LARGEST_BATCH, BATCH_PIXELS // (images.shape[2] * images.shape[3])))
    parts = zip(images.split(size), targets.split(size), strict=True)
    return np.concatenate([chosen(model, some, wanted, **settings) for some, wanted in parts])


def _answered(
    run: RunDescription, model: nn.Module, place: str, found: list[tuple[str, Path | bytes]], target: int | None
) -> Pictures:
    pixels, problems = read_pictures(found, run.preprocess)
    for (name, _), problem in zip(found, problems, strict=True):
        if problem is not None:
            fix = "Open it in a picture viewer to see what it is, or leave it out."
            raise UserError(f"{name}: {problem}", "a picture that can be decoded", fix)
    images = torch.from_numpy(run.preprocess.normalise(pixels)).to(place)
    with torch.inference_mode():
        logits = torch.cat([model(part).float().cpu() for part in images.split(LARGEST_BATCH)])
    probabilities = probabilities_of(logits.numpy(), run.config.training.loss)
    targets = probabilities.argmax(axis=1) if target is None else np.full(len(pixels), target)
    names = tuple(name for name, _ in found)
    return Pictures(names, pixels, images, probabilities, torch.from_numpy(targets.astype(np.int64)).to(place))


def _draw(
    model: nn.Module,
    pictures: Pictures,
    names: Sequence[str],
    layer: str | None,
    seed: int,
    progress: Progress,
    *,
    may_skip: bool,
) -> tuple[list[Drawn], list[str]]:
    """The maps of each method, and a remark on each that cannot run on this network."""
    drawn: list[Drawn] = []
    remarks: list[str] = []
    for number, name in enumerate(names):
        progress(number, len(names), "drawing heat maps")
        uses_layer = METHODS[name].uses_layer
        try:
            place = target_layer(model, pictures.images, layer)[0] if uses_layer else None
            heat = heat_maps_for(model, pictures.images, pictures.targets, name, layer=place, seed=seed)
        except UserError as error:
            if not may_skip or (uses_layer and layer is not None):
                raise
            remarks.append(f"{name} is left out: {error.received}; it needs {error.expected}.")
            continue
        drawn.append(Drawn(name, place, heat, None))
    progress(len(names), len(names), "drawing heat maps")
    return drawn, remarks


def _check_images(model: nn.Module, data: TrainingData | None, pictures: Pictures, place: str) -> CheckImages:
    """The run's own images where they can be had, else the given ones."""
    on = None if data is None else images_to_check(model, data, place)
    if on is not None:
        return on
    words = "the given picture alone" if len(pictures.names) == 1 else f"the {len(pictures.names)} given pictures alone"
    return CheckImages(pictures.images, pictures.targets, words, lasting=False)


def _checked(
    drawn: Drawn,
    known: MethodCheck | None,
    model: nn.Module,
    on: CheckImages | None,
    remembered: RememberedChecks,
    run: RunDescription,
    seed: int,
    progress: Progress,
) -> Drawn:
    found = known
    if found is None:
        assert on is not None
        what = f"checking {drawn.method}"
        progress(0, 1, what)
        method: Method = partial(heat_maps_for, method=drawn.method, layer=drawn.layer, seed=seed)
        found = run_check(method, model, on, loss=run.config.training.loss, seed=seed)
        progress(1, 1, what)
        if on.lasting:
            remembered.add(drawn.method, drawn.layer, seed, found)
    return Drawn(drawn.method, drawn.layer, drawn.heat, found)


def _near(
    model: nn.Module,
    run: RunDescription,
    data: TrainingData | None,
    why_not: str,
    pictures: Pictures,
    num_neighbours: int,
    device: str,
    progress: Progress,
) -> tuple[list[tuple[NearPicture, ...]], str]:
    """The nearest training images of each picture, and a sentence on them, or on why there are none."""
    if data is None:
        return [()] * len(pictures.names), why_not
    try:
        return near_pictures(model, run, data, pictures.pixels, num_neighbours, device=device, progress=progress)
    except UserError as error:
        return [()] * len(pictures.names), f"No training image can be compared: {error.received}."


def _explanations(run: RunDescription, pictures: Pictures, drawn: Sequence[Drawn]) -> tuple[Explanation, ...]:
    return tuple(
        Explanation(
            image=name,
            class_name=run.classes[target],
            probability=float(pictures.probabilities[row, target]),
            method=each.method,
            layer=each.layer,
            trusted=None if each.found is None else each.found.trusted,
            warning=None if each.found is None else each.found.warning,
        )
        for row, (name, target) in enumerate(zip(pictures.names, pictures.targets.tolist(), strict=True))
        for each in drawn
    )
