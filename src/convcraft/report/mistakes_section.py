"""The worst mistakes, with the heat map of what the wrong answer rests on."""

from __future__ import annotations

import matplotlib
import numpy as np
from numpy.typing import NDArray

from convcraft.evaluation.metrics import Mistake, Report
from convcraft.report import html
from convcraft.report.html import Html, Section, element
from convcraft.report.run_content import ReportContent
from convcraft.report.text import count

HEAT_COLOURS = "inferno"  # told apart by colour-blind readers; in grey print its lightness alone rises with the heat
HEAT_PIXELS = 56  # a heat map is smooth: the browser enlarges it


def picture_id(place: int) -> str:
    """Id of the <img> of a mistake; the cells of the confusion matrix show it again."""
    return f"mistake-{place}"


def bytes_of_mistakes(pixels: NDArray[np.uint8]) -> int:
    """What the pictures of the mistakes weigh on the page."""
    return sum(len(html.encoded(image, html.LARGEST_PICTURE_PIXELS)[1]) for image in pixels)


def mistakes_section(content: ReportContent) -> Section | None:
    report = content.evaluation
    if report is None or not content.mistakes or not len(content.mistake_pixels):
        return None
    wrong = report.num_images - report.num_correct
    shown = min(len(content.mistakes), len(content.mistake_pixels))
    what = f"The {shown:,} worst of {count(wrong, 'mistake')}"
    if shown == wrong:
        what = "The only mistake" if wrong == 1 else f"All {count(wrong, 'mistake')}"
    parts = [element("p", f"{what}, largest cross-entropy first. Measured on {content.measured_on}.", class_="note")]
    heat = content.heat
    maps = None if heat is None else heat.maps
    if heat is not None:
        if maps is not None:
            box = Html(f'<input type="checkbox" id="heat"{" checked" if heat.believed else ""}>')
            words = f"Heat maps ({heat.method}): what the wrong answer rests on. Warm is much, dark is little."
            parts.append(element("label", box, f" {words}", class_="switch"))
        parts.append(element("p", heat.note, class_="note") if heat.note else Html())
    cards = [
        _card(report, place, mistake, np.asarray(pixels), None if maps is None else maps[place])
        for place, (mistake, pixels) in enumerate(zip(content.mistakes, content.mistake_pixels, strict=False))
    ]
    parts.append(html.pictures(cards))
    return Section("mistakes", "Worst mistakes", "最严重的错误", html.join(parts))


def _card(
    report: Report, place: int, mistake: Mistake, pixels: NDArray[np.uint8], heat: NDArray[np.float32] | None
) -> tuple[Html, Html]:
    true, called = report.classes[mistake.target], report.classes[mistake.label]
    image = html.picture(pixels, f"{mistake.name}: {true}, called {called}", name=picture_id(place))
    if heat is not None:
        image = element("div", image, _layer(heat, called), class_="under-heat")
    right = element("b", true, class_="right")
    words = [
        element("div", "is ", right, f" ({100 * mistake.target_probability:.1f} %)"),
        element("div", "called ", element("b", called, class_="wrong"), f" ({100 * mistake.probability:.1f} %)"),
        element("div", mistake.name, class_="name"),
    ]
    return image, html.join(words)


def _layer(heat: NDArray[np.float32], called: str) -> Html:
    """The map in colours, to be laid over the image."""
    step = max(1, max(heat.shape) // HEAT_PIXELS)
    rows, columns = (side - side % step for side in heat.shape)
    small = heat[:rows, :columns].reshape(rows // step, step, columns // step, step).mean(axis=(1, 3))
    colours = matplotlib.colormaps[HEAT_COLOURS](small, bytes=True)[..., :3]
    kind, data, (width, height) = html.encoded(np.ascontiguousarray(colours), max(small.shape))
    alt = html.text(f"What speaks for {called}")
    return Html(
        f'<img class="heat" src="data:image/{kind};base64,{data}" alt="{alt}" width="{width}" height="{height}">'
    )
