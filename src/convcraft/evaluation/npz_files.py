"""Arrays that `evaluate` keeps beside its figures, as .npz without pickle."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.errors import UserError

# What changed bytes make NumPy and zipfile raise; RuntimeError: of a method or a password that zipfile does not know.
DAMAGED = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error)


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """The content of a compressed .npz file; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return buffer.getvalue()


def load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of a file that holds `npz_bytes`.

    Raises:
        UserError: missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as saved:
            return dict(saved)
    except DAMAGED as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: Exception) -> UserError:
    """What to raise for a file that is not what `evaluate` saved."""
    fix = "Evaluate the run again: convcraft evaluate RUN"
    return UserError(f"{path}: {error}", "what `convcraft evaluate` saved", fix)
