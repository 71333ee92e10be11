"""An article's program and its mended twin as files to read side by side; what the reader changed in them stays."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from convcraft.workflows.seeds.catalogue import seed_module

WRITTEN = ".listings.json"  # file name -> SHA-256 of what was last written there


def write_listings(seed_id: str, out: Path) -> tuple[tuple[Path, ...], tuple[str, ...]]:
    """Write as_written.py and repaired.py where they are missing or still as this command left them.

    Returns:
        the two files, and a note for each that was kept because somebody changed it.
    """
    module = seed_module(seed_id)
    sources = {"as_written.py": module.as_written().source, "repaired.py": module.repaired().source}
    record = out / WRITTEN
    written: dict[str, str] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    notes = []
    for name, source in sources.items():
        path, content = out / name, source.encode()
        present = _sha256(path.read_bytes()) if path.exists() else None
        if present in (None, written.get(name), _sha256(content)):
            path.write_bytes(content)
            written[name] = _sha256(content)
        else:
            notes.append(f"{path} has been changed and is kept; delete it to have it written anew")
    record.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    return tuple(out / name for name in sources), tuple(notes)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
