"""A map of the last features: images that the network sees alike lie near each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from convcraft.report import html
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import FeaturePlaces, ReportContent
from convcraft.report.text import count

SIDE, MARGIN = 400, 12  # of the drawing
NAMED_POINTS = 500  # up to so many, each says its name
# Okabe and Ito 2008: eight colours that colour-blind readers tell apart. Shapes differ as well. Yellow, which vanishes
# on white, is brown here, and black is left to rings.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c6d46")
MOST_CLASSES = 14  # with a look of their own; of more, those with most mistakes
SHAPES = ("circle", "square", "triangle", "diamond")


def places_section(content: ReportContent) -> Section | None:
    places, report = content.places, content.evaluation
    if places is None or report is None or not len(places.targets):
        return None
    shown = _shown_classes(places)
    looks = {index: (COLOURS[place % len(COLOURS)], SHAPES[place % len(SHAPES)]) for place, index in enumerate(shown)}
    wrong = int((places.targets != places.labels).sum())
    drawings = [
        element(
            "figure",
            _drawing(plane, places, report.classes, looks, f"Map of features, {name}"),
            element("figcaption", name),
            class_="places",
        )
        for name, plane in places.planes.items()
    ]
    keys = [element("li", _key(*looks[index]), report.classes[index]) for index in shown]
    if len(shown) < len(np.unique(places.targets)):
        keys.append(element("li", _key("var(--muted)", "dot"), "other classes"))
    keys.append(element("li", _key("var(--ink)", "ring"), f"ringed: called wrong ({wrong:,})"))
    note = (
        f"{count(len(places.targets), 'image')} of the {content.split_name} split by what the network's classifier is "
        f"given. {places.note} Colour: true class."
    )
    parts = [
        element("ul", *keys, class_="keys"),
        element("div", *drawings, class_="figures"),
        element("p", note, class_="note"),
    ]
    return Section("places", "Map of features", "特征分布", html.join(parts))


def _shown_classes(places: FeaturePlaces) -> list[int]:
    """All classes where looks go round, else those with most mistakes; in the order of the classes."""
    present = np.unique(places.targets)
    if len(present) <= MOST_CLASSES:
        return [int(index) for index in present]
    wrong = places.targets != places.labels
    involved = np.bincount(np.concatenate([places.targets[wrong], places.labels[wrong]]), minlength=present[-1] + 1)
    most = present[np.argsort(-involved[present], kind="stable")][: len(COLOURS)]
    return sorted(int(index) for index in most)


def _drawing(
    plane: NDArray[np.float64],
    places: FeaturePlaces,
    classes: tuple[str, ...],
    looks: dict[int, tuple[str, str]],
    alt: str,
) -> Html:
    low, high = plane.min(axis=0), plane.max(axis=0)
    spread = np.where(high > low, high - low, 1.0).max()  # one scale for both axes
    centred = (plane - (low + high) / 2) / spread * (SIDE - 2 * MARGIN) + SIDE / 2
    named = len(plane) <= NAMED_POINTS
    size = 4.0 if named else 2.6
    wrong = places.targets != places.labels
    marks = []
    for row in np.argsort(wrong, kind="stable").tolist():  # mistakes on top
        target, label = int(places.targets[row]), int(places.labels[row])
        colour, shape = looks.get(target, ("var(--muted)", "dot"))
        words = f"{places.names[row]}: {classes[target]}"
        words += f", called {classes[label]}" if target != label else ""
        marks.append(_mark(centred[row, 0], SIDE - centred[row, 1], size, colour, shape, target != label, words, named))
    inside = Html("".join(marks))
    return element("svg", inside, viewBox=f"0 0 {SIDE} {SIDE}", role="img", aria_label=alt)


def _mark(x: float, y: float, size: float, colour: str, shape: str, wrong: bool, words: str, named: bool) -> str:
    title = element("title", words) if named else Html()
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{1.9 * size:.1f}" class="ring"/>' if wrong else ""
    drawn = f'<path d="{_outline(x, y, size, shape)}" fill="{colour}"'
    return f"<g>{ring}{drawn}>{title}</path></g>" if named else f"{ring}{drawn}/>"


def _outline(x: float, y: float, size: float, shape: str) -> str:
    if shape == "square":
        return f"M{x - 0.88 * size:.1f} {y - 0.88 * size:.1f}h{1.76 * size:.1f}v{1.76 * size:.1f}h{-1.76 * size:.1f}z"
    if shape == "triangle":
        return f"M{x:.1f} {y - 1.2 * size:.1f}l{1.15 * size:.1f} {2.1 * size:.1f}h{-2.3 * size:.1f}z"
    if shape == "diamond":
        half = 1.25 * size
        return f"M{x:.1f} {y - half:.1f}l{half:.1f} {half:.1f}l{-half:.1f} {half:.1f}l{-half:.1f} {-half:.1f}z"
    radius = 0.7 * size if shape == "dot" else size
    arc = f"a{radius:.1f} {radius:.1f} 0 1 0"
    return f"M{x - radius:.1f} {y:.1f}{arc} {2 * radius:.1f} 0{arc} {-2 * radius:.1f} 0z"


def _key(colour: str, shape: str) -> Html:
    inside = '<circle cx="8" cy="8" r="6" class="ring"/>'
    if shape != "ring":
        inside = f'<path d="{_outline(8, 8, 5, shape)}" fill="{colour}"/>'
    return Html(f'<svg viewBox="0 0 16 16" width="14" height="14" aria-hidden="true">{inside}</svg> ')
