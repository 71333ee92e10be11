"""Files that survive a kill or a power cut: flushed to the disk, and put under their name at once."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from convcraft.errors import UserError


def write_durably(path: Path, data: bytes) -> None:
    """Write and flush to the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_durably(path: Path, data: bytes) -> None:
    """Put new content under a name at once: readers see the old file or the new one, never a part.

    Raises:
        OSError: the disk is full, or the name is a folder's; nothing is left beside it.
    """
    draft = path.with_name(path.name + ".tmp")
    try:
        write_durably(draft, data)
        draft.replace(path)
    except OSError:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Flush a folder's list of names (POSIX; elsewhere the rename alone must do)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that readers see the old file or the new one, never a part."""
    replace_durably(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """JSON as the project's files have it: UTF-8, indented by one."""
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def read_json(path: Path) -> Any:
    """Parse a JSON file of a run folder.

    Raises:
        UserError: missing or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: {error}", "a complete run folder", "Train again, or restore the file.") from error
