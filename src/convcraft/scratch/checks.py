"""Refusals that the operations share: each says what was received, what was expected, and how to mend it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]  # float32 or float64, checked where it enters
Pair = tuple[int, int]  # rows, columns


def refuse(received: str, expected: str, fix: str) -> ValueError:
    """The error to raise; the same three pieces everywhere."""
    return ValueError(f"{received}; expected {expected}. {fix}")


def check_floating(**arrays: Array | None) -> None:
    """All arrays that are given must be float32 or float64, and all of one of them.

    NumPy would mix them silently (a float32 array times a float64 array is float64), torch refuses as this does.
    """
    given = {name: array for name, array in arrays.items() if array is not None}
    for name, array in given.items():
        if not isinstance(array, np.ndarray) or array.dtype not in (np.float32, np.float64):
            what = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
            raise refuse(f"{name} is {what}", "a NumPy array of float32 or float64", f"Convert {name} first.")
    if len({array.dtype for array in given.values()}) > 1:
        kinds = ", ".join(f"{name} {array.dtype}" for name, array in given.items())
        raise refuse(kinds, "one dtype for all", "Convert them to one with astype.")


def check_axes(name: str, array: Array, axes: str) -> None:
    """`array` must have as many axes as `axes` has letters ("BCHW")."""
    if array.ndim != len(axes):
        shape = f"[{', '.join(axes)}]"
        raise refuse(f"{name} has shape {list(array.shape)}", shape, "Add or drop axes, e.g. array[None].")


def as_pair(name: str, value: int | Pair, least: int) -> Pair:
    """One number for rows and columns, or two; each a whole number of at least `least`."""
    pair = (value, value) if isinstance(value, int | np.integer) else value
    whole = isinstance(pair, tuple | list) and all(isinstance(side, int | np.integer) for side in pair)
    if not whole or len(pair) != 2 or min(pair) < least:
        raise refuse(f"{name}={value!r}", f"one or two whole numbers of at least {least}", f"Pass another {name}.")
    return int(pair[0]), int(pair[1])
