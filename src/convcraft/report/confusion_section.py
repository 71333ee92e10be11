"""The confusion matrix. Its cells open the images behind them.

Up to 30 classes it is a table of cells; beyond, where most cells are empty, a picture of the whole and a list of the
cells that are not.
"""

from __future__ import annotations

import numpy as np

from convcraft.evaluation.metrics import Report, most_confused
from convcraft.report import html, plots
from convcraft.report.cell_pictures import Cells
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import percent, shorten

TABLE_CLASSES = 30
NAME_COLUMNS = 18
STRONG = 0.85  # from here on white reads better than ink on blue and orange
LISTED_PAIRS = 60  # the script shows the others when asked
COMMONEST = 8


def confusion_section(content: ReportContent) -> Section | None:
    report = content.evaluation
    if report is None:
        return None
    opens = content.cells is not None
    few = len(report.classes) <= TABLE_CLASSES
    how = f"Open a {'cell' if few else 'number below'} to see its images, the worst first." if opens else ""
    if few:
        caption = (
            f"Rows: true class, columns: predicted class; blue is right, orange wrong, stronger with the share of the "
            f"row (square-root scale). {how} Measured on {content.measured_on}."
        )
        drawn = element("div", _matrix(report, opens), element("p", caption, class_="note"))
        parts = [element("div", drawn, _commonest(report), class_="figures confusion"), _panel(opens)]
    else:
        figure = plots.confusion_matrix(report.confusion, report.classes)
        caption = (
            f"Rows: true class, columns: predicted class; blue is right, orange wrong, strongest where the largest "
            f"share of a class goes. {how} Measured on {content.measured_on}."
        )
        drawing = html.plot(figure, "Confusion matrix: how often each class was called what", caption)
        parts = [drawing, _panel(opens), _pairs(report, opens)]
    if content.cells is not None:
        parts.append(_data(report, content.cells))
    return Section("confusion", "Confusion matrix", "混淆矩阵", html.join(parts))


def _matrix(report: Report, opens: bool) -> Html:
    names = [shorten(name, NAME_COLUMNS) for name in report.classes]
    strength = np.sqrt(report.confusion / np.maximum(report.confusion.sum(axis=1, keepdims=True), 1))
    heads = [element("th", element("span", name), scope="col", title=full) for name, full in _titled(report, names)]
    rows = []
    for row, (name, full) in enumerate(_titled(report, names)):
        cells = [
            _cell(report, row, column, float(strength[row, column]), opens) for column in range(len(report.classes))
        ]
        rows.append(element("tr", element("th", name, scope="row", title=full), *cells))
    corner = element("td", element("span", "called →"), Html("<br>"), element("span", "true ↓"), class_="corner")
    grid = element("table", element("thead", element("tr", corner, *heads)), element("tbody", *rows), class_="matrix")
    return element("div", grid, class_="scroll", tabindex="0")


def _titled(report: Report, names: list[str]) -> list[tuple[str, str | None]]:
    """Short names with the full one where it was cut."""
    return [(name, full if name != full else None) for name, full in zip(names, report.classes, strict=True)]


def _cell(report: Report, row: int, column: int, strength: float, opens: bool) -> Html:
    times = int(report.confusion[row, column])
    if not times:
        return element("td")
    kind = ("hit" if row == column else "miss") + (" strong" if strength > STRONG else "")
    words = f"{report.classes[row]} called {report.classes[column]}: {times:,}"
    if opens:
        inside: object = element(
            "button", f"{times:,}", type="button", data_cell=f"{row}-{column}", aria_label=words, title=words
        )
    else:
        inside = element("span", f"{times:,}", title=words)
    return element("td", inside, class_=kind, style=f"--strength:{100 * strength:.0f}%")


def _panel(opens: bool) -> Html:
    return element("div", id="cell", class_="opened", tabindex="-1", role="region", hidden="") if opens else Html()


def _commonest(report: Report) -> Html:
    pairs = most_confused(report.confusion, COMMONEST)
    if not pairs:
        return Html()
    rows: list[list[object]] = [
        [report.classes[target], report.classes[label], f"{times:,}", f"{report.per_class[target].support:,}"]
        for target, label, times in pairs
    ]
    confused = html.table(["true class", "called", "times", "of images"], rows, name_columns=2)
    return element("div", element("h3", "Most often confused"), confused)


def _pairs(report: Report, opens: bool) -> Html:
    """The cells that are not empty, mistakes alone and the commonest first."""
    mistakes = report.confusion.copy()
    np.fill_diagonal(mistakes, 0)
    num_pairs = int((mistakes > 0).sum())
    rows: list[list[object]] = []
    for target, label, times in most_confused(report.confusion, LISTED_PAIRS):
        number: object = f"{times:,}"
        if opens:
            number = element("button", f"{times:,}", type="button", data_cell=f"{target}-{label}", class_="plain")
        rows.append([report.classes[target], report.classes[label], number, f"{report.per_class[target].support:,}"])
    wrong = report.num_images - report.num_correct
    filled = int((report.confusion > 0).sum())
    share = percent(filled / report.confusion.size, report.confusion.size)
    note = (
        f"{filled:,} of {report.confusion.size:,} cells ({share}) hold images; {num_pairs:,} of them are mistakes, "
        f"{wrong:,} images in all."
    )
    grid = html.table(["true class", "called", "times", "of images"], rows, name_columns=2)
    parts = [element("h3", "Most often confused"), element("p", note, class_="note")]
    if opens:
        field = Html('<input type="search" id="pairs-wanted" autocomplete="off">')
        parts.append(element("label", "Class: ", field, class_="look", hidden=""))
    parts.append(element("div", grid, id="pairs"))
    if opens:
        more = f"Show more of {num_pairs:,}"
        parts.append(element("button", more, type="button", id="pairs-more", class_="plain", hidden=""))
    return element("div", *parts)


def _data(report: Report, cells: Cells) -> Html:
    """What the script opens cells with."""
    return html.data_block(
        "cells-data",
        {
            "classes": [shorten(name, 60) for name in report.classes],
            "support": [entry.support for entry in report.per_class],
            "enlarge": cells.small,
            "pictures": cells.pictures,
            "cells": [
                [
                    target,
                    label,
                    int(report.confusion[target, label]),
                    [[image.name, f"{100 * image.confidence:.1f}", image.picture] for image in images],
                ]
                for (target, label), images in sorted(cells.images.items())
            ],
        },
    )
