"""Natural order of names: 1, 2, 10 as people sort, not 1, 10, 2 as computers do.

The class order of a run is this order everywhere. torchvision sorts class folders as strings and timm sorts them
naturally, so the same folder gets different class numbers there (pytorch/vision#714, pytorch-image-models#222).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

_DIGITS = re.compile(r"(\d+)")


def natural_key(name: str) -> tuple[Any, ...]:
    """A sort key: runs of digits compare as numbers, letters without regard to case or Unicode composition.

    Names that are equal so far ("A", "a"; "1", "01") are told apart by their own characters, so the order is total
    and does not depend on the order in which a file system lists them.

    >>> sorted(["10", "2", "b", "A", "1"], key=natural_key)
    ['1', '2', '10', 'A', 'b']
    """
    folded = name.casefold() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
    pieces = _DIGITS.split(folded)  # text, digits, text, digits ...: like compares with like at every position
    return (tuple(_number(piece) if index % 2 else piece for index, piece in enumerate(pieces)), name)


def _number(digits: str) -> tuple[int, str]:
    """(length, digits) orders like the number itself, for digits of any script and of any length."""
    if digits.isascii():  # nearly always, and this runs for every file of a folder
        decimal = digits.lstrip("0")
        return (len(decimal), decimal)
    decimal = "".join(str(unicodedata.decimal(digit)) for digit in digits).lstrip("0")
    return (len(decimal), decimal)


def natural_sorted(names: Iterable[str]) -> list[str]:
    """The names in natural order."""
    return sorted(names, key=natural_key)
