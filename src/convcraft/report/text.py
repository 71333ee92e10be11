"""Words and numbers as a report shows them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

SHOWN_NAMES = 6


def printable(text: object) -> str:
    """One line that any encoder takes: white space becomes a blank; control characters, bidirectional overrides and
    the lone surrogates of undecodable file names become U+FFFD."""
    return "".join(" " if c.isspace() else c if c.isprintable() else "\ufffd" for c in str(text))


def shorten(text: object, columns: int) -> str:
    """`printable`, cut to so many columns with an ellipsis; a 中文 character takes two."""
    clean = printable(text)
    if _width(clean) <= columns:
        return clean
    kept = ""
    for character in clean:
        if _width(kept + character) > columns - 1:
            break
        kept += character
    return kept + "…"


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in text)


def percent(share: float, num_images: int) -> str:
    """A share of so many images, with no more decimals than the images can tell apart."""
    return f"{100 * share:.{2 if num_images >= 1000 else 1}f} %"


def in_percent(share: float, num_images: int) -> str:
    """`percent` without its sign, for a column that names it."""
    return percent(share, num_images).removesuffix(" %")


def interval_percent(interval: tuple[float, float], num_images: int) -> str:
    return f"{in_percent(interval[0], num_images)}–{percent(interval[1], num_images)}"


def count(number: int, noun: str) -> str:
    """ "1 image", "1,797 images"."""
    plural = noun if number == 1 else noun + ("es" if noun.endswith("s") else "s")
    return f"{number:,} {plural}"


def some(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    left = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {left:,} more" if left > 0 else "")
