"""The page of `convcraft explain`: what a network answered for each picture, and what its answer seems to rest on."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.colors import to_hex
from numpy.typing import NDArray

from convcraft import __version__
from convcraft.errors import UserError
from convcraft.explain.kernels import Kernels
from convcraft.report import html
from convcraft.report.explanation_content import (
    MADE_BY,
    DrawnHeat,
    ExplainedImage,
    ExplanationContent,
    MethodNote,
    NearPicture,
    laid_over_grey,
    overlay,
)
from convcraft.report.html import Html, Section, element
from convcraft.report.run_report import signed_colours
from convcraft.report.text import count, shorten

WRITTEN_BY = f"Written by {MADE_BY}"
SHOWN_CLASSES = 5
SHOWN_MAPS = 16
SHOWN_KERNELS = 64
HEADING_COLUMNS = 32
LARGE_PICTURES = "grid-template-columns: repeat(auto-fill, minmax(min(44%, 176px), 1fr)); max-width: 1000px"
SMALL_PICTURES = "max-width: 760px"
NEAR_PICTURES = "grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); max-width: 700px"
BESIDE = (
    "display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 230px), 1fr)); gap: 20px 32px; "
    "align-items: start; max-width: 720px; margin-bottom: 8px"
)
WARNINGS = {  # verdict -> what stands under each map
    "unproven": "Not proven here: a blob in the centre may do as well.",
    "broken": "Do not believe: it looks much the same with random weights.",
}


def write_page(path: Path, content: ExplanationContent) -> None:
    """Write the page, whole or not at all.

    Raises:
        UserError: as `refuse_foreign_page`.
    """
    refuse_foreign_page(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        unfinished.write_text(render_page(content), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def refuse_foreign_page(path: Path) -> None:
    """Raises UserError where path holds anything but an earlier page of ours."""
    if path.is_dir() or (path.exists() and WRITTEN_BY.encode() not in path.read_bytes()):
        fix = "Choose another --out; nothing was overwritten."
        raise UserError(f"{path}, which {MADE_BY} did not write", "a new name or an earlier page", fix)


def render_page(content: ExplanationContent) -> str:
    """The page as text; the same content gives the same text."""
    header = html.join([_warnings(content.methods), _colour_bar()])
    return html.page(content.title, header, list(_sections(content)), f"{WRITTEN_BY} {__version__}.")


def _sections(content: ExplanationContent) -> Iterable[Section]:
    for number, image in enumerate(content.images, start=1):
        title = shorten(Path(image.name).name, HEADING_COLUMNS)
        yield Section(f"image-{number}", title, f"图像 {number}", _image(image, content))
    yield Section("methods", "Methods and checks", "方法与检验", _methods(content))
    if content.kernels is not None:
        yield Section("kernels", "First kernels", "第一层卷积核", _kernels(content.kernels))
    yield Section("summary", "Run", "运行", html.pairs(content.summary))


def _warnings(methods: Sequence[MethodNote]) -> Html:
    """Which methods are not to be trusted here; the table of methods has the figures."""
    items = []
    for verdict, said in WARNINGS.items():
        names = ", ".join(note.method for note in methods if note.verdict == verdict)
        if names:
            items.append(element("li", element("span", f"{names}: ", class_="severity"), said, class_="warning"))
    if not items:
        return Html()
    how = element("p", element("a", "How this was checked, with figures", href="#methods"), class_="note")
    return html.join([element("ul", *items, class_="findings", style="margin: 20px 0 0; max-width: 46em"), how])


def _colour_bar() -> Html:
    colours = [to_hex(colour) for colour in laid_over_grey()(np.linspace(0, 1, 17))]
    gradient = f"height: 12px; border-radius: 2px; background: linear-gradient(to right, {', '.join(colours)})"
    ends = element(
        "div",
        element("span", "0"),
        element("span", "1: the map's strongest place"),
        style="display: flex; justify-content: space-between; margin-top: 4px",
    )
    bar = element("div", element("div", style=gradient), ends, class_="note", role="img", aria_label="Colour bar: heat")
    said = (
        "Heat lies over the picture in grey. Each map is divided by its own largest value, so compare places within a "
        "map, not one map with another."
    )
    return element("div", bar, element("p", said, class_="note"), style="max-width: 460px; margin: 20px 0 8px")


def _image(image: ExplainedImage, content: ExplanationContent) -> Html:
    name = element("span", image.name, class_="name")
    seen = element(
        "ul", _card(html.picture(image.pixels, image.name), "as the network saw it", name), class_="pictures"
    )
    warnings = {note.method: WARNINGS.get(note.verdict, "") for note in content.methods}
    heat = [_heat(image, drawn, warnings[drawn.method]) for drawn in image.heat_maps]
    parts = [
        element("div", element("div", seen, style="max-width: 230px"), _answer(image), style=BESIDE),
        element("h3", f"Heat for {image.class_name}"),
        element("ul", *heat, class_="pictures", style=LARGE_PICTURES),
    ]
    if content.near_note:
        parts += [element("h3", "Nearest training images"), element("p", content.near_note, class_="note")]
        parts.append(element("ul", *map(_near, image.neighbours), class_="pictures", style=NEAR_PICTURES))
    if image.feature_maps is not None:
        parts += [element("h3", f"Maps of layer {content.layer}"), _feature_maps(image.feature_maps)]
    return html.join(parts)


def _answer(image: ExplainedImage) -> Html:
    """Probabilities as bars; the explained class is marked, and shown even where it is far down."""
    shown = list(image.ranking[:SHOWN_CLASSES])
    if image.class_name not in dict(shown):
        shown.append((image.class_name, image.probability))
    rows = []
    for name, probability in shown:
        explained = name == image.class_name
        width = f"display: block; height: 8px; border-radius: 2px; width: {100 * probability:.2f}%; min-width: 1px; "
        colour = f"background: var(--{'blue' if explained else 'muted'})"
        rows += [
            element("b" if explained else "span", name, style="overflow-wrap: anywhere"),
            element("span", element("i", style=width + colour)),
            element("span", f"{100 * probability:.1f} %", style="text-align: right"),
        ]
    grid = "display: grid; grid-template-columns: minmax(0, max-content) minmax(60px, 1fr) max-content; "
    bars = element("div", *rows, style=grid + "gap: 4px 12px; align-items: center")
    first = image.ranking[0][0]
    said = [] if image.class_name == first else ["; explained, as asked: ", element("b", image.class_name)]
    return element("div", element("p", "Answer: ", element("b", first), *said), bars)


def _card(picture: Html, *words: object) -> Html:
    return element("li", picture, *(element("div", word) for word in words))


def _heat(image: ExplainedImage, drawn: DrawnHeat, warning: str) -> Html:
    alt = f"{image.name}: heat of {drawn.method} for {image.class_name}"
    place = f"layer {drawn.layer}" if drawn.layer is not None else "pixels"
    words: list[object] = [element("b", drawn.method), element("span", place, class_="name")]
    if warning:
        words.append(element("span", warning, class_="wrong"))
    if not drawn.heat.any():
        words.append(element("span", "Empty: it finds no support for this class.", class_="name"))
    return _card(html.picture(overlay(image.pixels, drawn.heat), alt), *words)


def _near(near: NearPicture) -> Html:
    neighbour = near.neighbour
    same = " (the same direction: perhaps this very image)" if neighbour.distance == 0 else ""
    return _card(
        html.picture(near.pixels, f"{neighbour.name}: {neighbour.label}"),
        element("b", neighbour.label),
        f"distance {neighbour.distance:.3f}{same}",
        element("span", neighbour.name, class_="name"),
    )


def _feature_maps(maps: NDArray[np.float32]) -> Html:
    """The strongest ones, in the order of their numbers."""
    strongest = np.sort(np.argsort(-np.abs(maps).mean(axis=(1, 2)), kind="stable")[:SHOWN_MAPS])
    size = f"{maps.shape[1]} x {maps.shape[2]}"
    which = f"All {len(maps)}" if len(strongest) == len(maps) else f"The {len(strongest)} strongest of {len(maps)}"
    said = f"{which} maps of {size}. Each has its own scale: blue positive, red negative, white zero."
    cards = [
        (html.picture(signed_colours(maps[channel]), f"Map {channel}"), element("span", channel, class_="name"))
        for channel in strongest
    ]
    grid = element("div", html.pictures(cards, small=True), style=SMALL_PICTURES)
    return html.join([element("p", said, class_="note"), grid])


def _methods(content: ExplanationContent) -> Html:
    checked = any(note.verdict for note in content.methods)
    header = ["method", "what warm means", *(["check", "finding"] if checked else [])]
    rows = [
        [note.method, note.description, *([note.warning or note.verdict, note.sentence] if checked else [])]
        for note in content.methods
    ]
    if checked:
        said = (
            f"Each method was put to two tests on this very network, on {content.checked_on}: are its maps other ones "
            f"once the weights are random, and does the class lose its probability sooner when the hottest pixels are "
            f"blurred first than when those in the middle are?"
        )
    else:
        said = "The methods were not checked on this network."
    caution = "No map is proof: it shows what one method computes, not why the network is right."
    remarks = [element("p", remark) for remark in content.remarks]
    return html.join([element("p", said), element("p", caution), html.table(header, rows, name_columns=4), *remarks])


def _kernels(kernels: Kernels) -> Html:
    num_kernels = len(kernels.pictures)
    shown = min(num_kernels, SHOWN_KERNELS)
    coloured = kernels.colours
    if coloured is not None:
        pictures = [np.round(255 * colours).astype(np.uint8) for colours in coloured[:shown]]
        scale = "in the colours they read; grey is weight 0"
    else:
        pictures = [_signed(kernel[0]) for kernel in kernels.pictures[:shown]]
        scale = "blue positive, red negative, white zero" + (
            "" if kernels.pictures.shape[1] == 1 else "; the first input channel of each"
        )
    which = f"All {num_kernels}" if shown == num_kernels else f"The first {shown} of {num_kernels}"
    said = f"{which} kernels of {kernels.layer}, on one scale: {scale}. They are the same for every picture."
    cards = [(html.picture(pixels, f"Kernel {number}"), Html()) for number, pixels in enumerate(pictures)]
    grid = element("div", html.pictures(cards, small=True), style=SMALL_PICTURES)
    return html.join([element("p", said, class_="note"), grid])


def _signed(kernel: NDArray[np.float32]) -> NDArray[np.uint8]:
    """A kernel in -1..1 on the scale of all: the corner values of the scale are added and taken off again."""
    framed = np.pad(kernel, ((0, 0), (0, 1)), constant_values=1.0)
    return np.ascontiguousarray(signed_colours(framed)[:, :-1])


def title_of(images: int, network: str, data: str) -> str:
    """The page's heading."""
    return f"{count(images, 'image')} explained: {network} on {data}"
