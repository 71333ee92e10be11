"""What was found out about a bundle on this machine, kept in the user's cache: that its probes pass, what runs fastest.

An entry counts only for the same bundle, runtime, versions and machine; whatever is unreadable counts as nothing known.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from convcraft.data.durable_files import write_json
from convcraft.data.user_cache import user_cache_dir
from convcraft.deploy.bundle import Bundle
from convcraft.deploy.machine import fingerprint


def recall(bundle: Bundle, what: str) -> Any:
    """What `remember` kept under this name, or None."""
    try:
        saved = json.loads(_place(bundle, what).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(saved, dict) or saved.get("on") != fingerprint(bundle.form.package):
        return None
    return saved.get("found")


def remember(bundle: Bundle, what: str, found: Any) -> None:
    """Keep JSON values; where the cache cannot be written, the next start finds out again."""
    place = _place(bundle, what)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"on": fingerprint(bundle.form.package), "found": found})
    except OSError:
        return


def _place(bundle: Bundle, what: str) -> Path:
    return user_cache_dir() / "bundles" / f"{bundle.sha256}.{what}.json"
