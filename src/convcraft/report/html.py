"""Pieces of a self-contained HTML page. Every string that comes in is escaped here, and the page can load nothing.

A content security policy in the head forbids requests and every script but the page's own (named by its hash), so that
not even a mistake here could open the page to what a class name or file name says.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from convcraft.report import plots
from convcraft.report.style import CSS
from convcraft.report.text import printable

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
THEME_COLOURS = {
    plots.INK: "var(--ink)",
    plots.MUTED: "var(--muted)",
    plots.RULE: "var(--rule)",
    plots.BLUE: "var(--blue)",
    plots.ORANGE: "var(--orange)",
}
SPACED_PERCENT = re.compile(r"(\d) %")
LOSSLESS_PIXELS = 64  # pictures up to so many pixels a side keep every pixel (PNG); larger ones become JPEG
JPEG_QUALITY = 82
CSS_PIXELS_PER_INCH = 96
LARGEST_SCALE = 1.1  # all plots then carry text of the same size, on a wide screen too
LARGEST_PICTURE_PIXELS = 320  # pictures are shown at 160 px at most: enough for screens of double density


class Html(str):
    """Text that is markup already. Everything else is escaped where it is put in."""


@dataclass(frozen=True)
class Section:
    anchor: str
    title: str
    chinese: str
    body: Html


def text(value: object) -> Html:
    """Any value as harmless text; a number keeps its percent sign on its line."""
    return value if isinstance(value, Html) else Html(SPACED_PERCENT.sub("\\1&nbsp;%", _escaped(value)))


def _escaped(value: object) -> str:
    return escape(printable(value))


def join(parts: Sequence[str]) -> Html:
    return Html("\n".join(parts))


def element(tag: str, *children: object, **attributes: object) -> Html:
    """<tag attributes>children</tag>; `class_` writes class, None leaves an attribute out."""
    written = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(value)}"'
        for name, value in attributes.items()
        if value is not None
    )
    return Html(f"<{tag}{written}>{''.join(text(child) for child in children)}</{tag}>")


def page(title: str, header: Html, sections: Sequence[Section], footer: str, script: str = "") -> str:
    """The whole document, table of contents included.

    script: the only one that the page may run; it must stand without what names and files say.
    """
    contents = [element("li", element("a", _heading(section), href=f"#{section.anchor}")) for section in sections]
    bodies = [
        element("section", element("h2", _heading(section)), section.body, id=section.anchor) for section in sections
    ]
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{text(title)}</title>
<style>{CSS}</style>
</head>
<body>
<div class="layout">
<header>{element("h1", title)}{header}</header>
<nav aria-label="Contents">{element("ol", *contents)}</nav>
<main>
{join(bodies)}
</main>
{element("footer", footer)}
</div>{f"<script>{script}</script>" if script else ""}
</body>
</html>
"""


def _policy(script: str) -> str:
    if not script:
        return POLICY
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"{POLICY}; script-src 'sha256-{digest}'"


def data_block(name: str, value: object) -> Html:
    """JSON for the page's script to read; nothing of it is run or read as markup."""
    written = json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
    return Html(f'<script type="application/json" id="{text(name)}">{written}</script>')


def _heading(section: Section) -> Html:
    return Html(f"{text(section.title)} {element('span', '· ' + section.chinese, lang='zh')}")


def table(
    header: Sequence[object],
    rows: Sequence[Sequence[object]],
    tall: bool = False,
    name_columns: int = 1,
    sortable: bool = False,
) -> Html:
    """A table that scrolls sideways where it is too wide; columns of figures are set flush right.

    tall: scrolls downwards too on a screen (hundreds of classes), never on paper.
    name_columns: so many columns on the left hold names, also where a class is called "7".
    sortable: the page's script turns the heads of its columns into buttons that sort.
    """
    numeric = [column >= name_columns and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    kinds = ["number" if is_number else None for is_number in numeric]
    head = [element("th", name, class_=kind, scope="col") for name, kind in zip(header, kinds, strict=True)]
    body = [
        element(
            "tr",
            element("th", row[0], class_=kinds[0], scope="row"),
            *(element("td", cell, class_=kind) for cell, kind in zip(row[1:], kinds[1:], strict=True)),
        )
        for row in rows
    ]
    kind = "sortable" if sortable else None
    grid = element("table", element("thead", element("tr", *head)), element("tbody", *body), class_=kind)
    return element("div", grid, class_="scroll tall" if tall else "scroll", tabindex="0")


def _is_number(cell: object) -> bool:
    """Digits with signs and units of one word: "1,797", "98.5 %", "96.8–99.4 %", "–"."""
    words = str(cell).split()
    return bool(words) and len(words) <= 2 and (words[0][0].isdigit() or words[0][0] in "–-+")


def beside(figure: Html, words: Html) -> Html:
    """A figure and what belongs to it: in two columns where there is room, else one below the other."""
    return element("div", figure, words, class_="figures")


def pairs(rows: Sequence[tuple[object, object]]) -> Html:
    """What and value, without a header."""
    body = [element("tr", element("th", what, scope="row"), element("td", value)) for what, value in rows]
    return element("div", element("table", element("tbody", *body), class_="pairs"), class_="scroll")


def code(source: str) -> Html:
    """Text of many lines as it is."""
    return Html(f'<pre tabindex="0">{chr(10).join(_escaped(line) for line in source.splitlines())}</pre>')


def plot(figure: Figure, alt: str, caption: str) -> Html:
    """A matplotlib figure as inline SVG in the colours and fonts of the page, never much larger than it was drawn."""
    width_pixels = round(figure.get_figwidth() * CSS_PIXELS_PER_INCH * LARGEST_SCALE)
    return element(
        "figure", _themed_svg(figure, alt), element("figcaption", caption), style=f"max-width:{width_pixels}px"
    )


def _themed_svg(figure: Figure, alt: str) -> Html:
    buffer = io.StringIO()
    with (
        matplotlib.rc_context({**plots.STYLE, "svg.fonttype": "none", "svg.hashsalt": "convcraft"}),
        warnings.catch_warnings(),
    ):
        # Texts stay texts (the browser has 中文 fonts); matplotlib's own font is only used to measure them.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ElementTree.fromstring(buffer.getvalue())
    _make_inline(root, prefix=hashlib.sha256(buffer.getvalue().encode()).hexdigest()[:8])
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": printable(alt)}
    # What matplotlib's own style sheet says; as a style sheet it would hold for the whole page.
    root.set("style", "stroke-linejoin: round; stroke-linecap: butt")
    return Html(ElementTree.tostring(root, encoding="unicode"))


def _make_inline(root: ElementTree.Element, prefix: str) -> None:
    """Turn a stand-alone SVG into one that may stand in HTML beside others: no namespaces, metadata, or shared ids."""
    for parent in list(root.iter()):
        for child in list(parent):
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for node in root.iter():
        node.tag = _local(node.tag)
        node.attrib = {_local(name): _own_reference(_local(name), value, prefix) for name, value in node.attrib.items()}


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _own_reference(name: str, value: str, prefix: str) -> str:
    if name == "id":
        return f"p{prefix}-{value}"
    if name == "href" and value.startswith("#"):
        return f"#p{prefix}-{value[1:]}"
    for colour, variable in THEME_COLOURS.items():
        value = value.replace(colour, variable) if name == "style" else value
    return value.replace("url(#", f"url(#p{prefix}-")


def picture(pixels: NDArray[np.uint8], alt: str, name: str | None = None) -> Html:
    """An image as an <img> with its data inside; small ones are enlarged in whole pixels, large ones reduced.

    Args:
        pixels: uint8 [H, W], [H, W, 1] or [H, W, 3].
        name: id of the element.
    """
    kind, data, (width, height) = encoded(pixels, LARGEST_PICTURE_PIXELS)
    small = max(pixels.shape[:2]) <= LARGEST_PICTURE_PIXELS // 2
    own = "" if name is None else f' id="{text(name)}"'
    return Html(
        f'<img src="data:image/{kind};base64,{data}" alt="{text(alt)}" width="{width}" height="{height}"{own}'
        + (' class="pixels">' if small else ">")
    )


def encoded(pixels: NDArray[np.uint8], largest_pixels: int) -> tuple[str, str, tuple[int, int]]:
    """ "png" or "jpeg", the file in base64, and its width and height; reduced to so many pixels a side.

    Args:
        pixels: uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (with opacity: always PNG).
    """
    image = Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels)
    image.thumbnail((largest_pixels, largest_pixels))
    buffer = io.BytesIO()
    lossless = max(image.size) <= LOSSLESS_PIXELS or image.mode == "RGBA"
    if lossless:
        image.save(buffer, format="PNG", optimize=True)
    else:
        image.save(buffer, format="JPEG", quality=JPEG_QUALITY, optimize=True)
    return "png" if lossless else "jpeg", base64.b64encode(buffer.getvalue()).decode(), image.size


def pictures(items: Sequence[tuple[Html, Html]], small: bool = False) -> Html:
    """Pictures with words beneath, as many in a row as fit."""
    cards = [element("li", image, words) for image, words in items]
    return element("ul", *cards, class_="pictures small" if small else "pictures")
