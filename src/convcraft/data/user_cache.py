"""The folder in which convcraft keeps what it can fetch or compute again: downloads, indices, groups of near copies."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache_dir() -> Path:
    """As is usual on this platform; nothing is made by asking."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "convcraft" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "convcraft"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "convcraft"
