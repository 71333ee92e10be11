"""What `convcraft explain` was asked for, checked before the work: methods, class, layer, files."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from convcraft.data.given_pictures import STDIN, open_pictures
from convcraft.errors import UserError
from convcraft.explain.catalogue import METHODS
from convcraft.explain.heat_maps import refuse_layer
from convcraft.models.layer_head import LayerHead
from convcraft.report import explanation_page, explanation_sheet

ALL = "all"
MOST_IMAGES = 100  # on one page


def chosen_methods(asked: Sequence[str], layer: str | None) -> tuple[str, ...]:
    """Names without repetition."""
    unknown = next((name for name in asked if name not in METHODS and name != ALL), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown.lower(), [*METHODS, ALL], n=3)
        fix = f"Did you mean {' or '.join(near)}?" if near else "Choose one of these."
        raise UserError(f"method {unknown!r}", f"one of {', '.join(METHODS)}, or {ALL}", fix)
    names = tuple(METHODS) if ALL in asked else tuple(dict.fromkeys(asked))
    if not any(METHODS[name].uses_layer for name in names):
        refuse_layer(names[0], layer)
    return names


def class_index(name: str, classes: tuple[str, ...]) -> int:
    if name not in classes:
        near = difflib.get_close_matches(name, classes, n=3)
        shown = ", ".join(classes[:20]) + (f" and {len(classes) - 20:,} more" if len(classes) > 20 else "")
        fix = f"Did you mean {' or '.join(near)}?" if near else "Choose one of these."
        raise UserError(f"class {name!r}", f"one of {shown}", fix)
    return classes.index(name)


def layer_name(model: nn.Module, layer: str | None) -> str | None:
    """A classifier that reads several depths holds the network below `network.`; its own names are taken too."""
    below = isinstance(model, LayerHead) and layer in dict(model.network.named_modules())
    return f"network.{layer}" if below and layer not in dict(model.named_modules()) else layer


def checked_out(path: Path) -> Path:
    """Refused before the work rather than after it."""
    suffix = path.suffix.lower()
    if suffix in (".html", ".htm"):
        explanation_page.refuse_foreign_page(path)
    elif suffix == ".png":
        explanation_sheet.refuse_foreign_sheet(path)
    else:
        raise UserError(
            f"--out {path}", "a file name that ends in .html or .png", f"Name it {path.name or 'page'}.html."
        )
    return path


def pictures_to_explain(images: Sequence[str]) -> list[tuple[str, Path | bytes]]:
    """Names and what to decode."""
    for name in images:
        if name != STDIN and not os.path.lexists(name):
            beside = os.path.dirname(name) or "."  # noqa: PTH120  (pathlib raises where a name is too long)
            there = os.listdir(beside) if os.path.isdir(beside) else []  # noqa: PTH112, PTH208
            near = difflib.get_close_matches(os.path.basename(name), there, n=3)  # noqa: PTH119
            if near:
                fix = f"Did you mean {' or '.join(near)}?"
                raise UserError(f"no file {name!a}", "a picture, a folder of pictures or -", fix)
    found = open_pictures(images)
    if len(found) > MOST_IMAGES:
        fix = "Name fewer; a page of so many would be too large to read."
        raise UserError(f"{len(found):,} pictures", f"at most {MOST_IMAGES}", fix)
    return found
