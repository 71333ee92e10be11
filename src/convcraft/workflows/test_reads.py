"""How often a run has been judged: every opening of labelled test images leaves a line that is not taken back.

Who looks at the test images often enough, and changes something each time, fits to them. One line of JSON per opening,
written before any figure is known, and one per seal. Each line carries a hash of all that stands before it, so that a
line cannot be changed or taken out without a trace; only cutting off the end leaves none here (the seal does).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from convcraft import __version__

TEST_READS = "test_reads.jsonl"
LOCK = "test_reads.lock"
OPENED, SEALED = "opened", "sealed"


@dataclass(frozen=True)
class TestReads:
    """Openings of one set of test images by a run. number: this one included. first: when the first was, in UTC.

    other_weights: how many of the earlier ones judged other weights than these: a choice among them may have been made.
    """

    __test__ = False  # no test, whatever pytest makes of the name

    number: int
    first: str
    other_weights: int = 0

    @property
    def sentence(self) -> str:
        times = "once" if self.number == 1 else f"{self.number:,} times"
        return f"These test images were opened {times} by this run" + (
            "." if self.number == 1 else f", first on {self.first[:10]}."
        )


def record_test_read(run: Path, images: str, weights_sha256: str) -> TestReads:
    """Add one line, flushed to the disk, and count those of the same images.

    Args:
        images: what tells the test images from others: the hash of the split, or the name of other data.
        weights_sha256: of the weights that are judged.
    """
    now = _append(run, {"event": OPENED, "images": images, "weights_sha256": weights_sha256})
    openings = [entry for entry in map(_opening, _lines(run / TEST_READS)) if entry is not None]
    openings = [entry for entry in openings if entry["images"] in (images, None)]
    first = next((entry["time"] for entry in openings if entry["time"]), now)
    others = [entry for entry in openings if entry["weights_sha256"] not in (weights_sha256, None)]
    return TestReads(len(openings), first, len(others))


def record_seal(run: Path, seal_sha256: str) -> None:
    """Note what the seal of an evaluation is."""
    _append(run, {"event": SEALED, "seal_sha256": seal_sha256})


def last_seal(run: Path) -> str | None:
    """SHA-256 of the newest seal that was noted; None where there is none."""
    seals = [entry["seal_sha256"] for entry in _entries(_lines(run / TEST_READS)) if "seal_sha256" in entry]
    return seals[-1] if seals else None


def broken_lines(run: Path) -> list[int]:
    """Numbers (from 1) of the lines that are not what they were when they were written.

    Lines of older versions carry no hash; they are covered by the first line that does. A line that a crash has cut is
    covered by the next one.
    """
    lines = _lines(run / TEST_READS)
    broken, unproven, before, is_chained = [], [], b"", False
    for number, line in enumerate(lines, start=1):
        entry = _parsed(line)
        body = {key: value for key, value in entry.items() if key != "chain"} if entry is not None else {}
        if entry is None or "chain" not in entry:
            unproven.append(number)
            before += line
            continue
        if entry["chain"] != _chain(before, body):
            broken.append(number)
        unproven.clear()  # this line's hash was made from them
        before, is_chained = before + line, True
    return broken + [number for number in unproven if is_chained or _parsed(lines[number - 1]) is None]


def _append(run: Path, body: dict[str, Any]) -> str:
    """One line more, durable; returns its time."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    body = {"time": now, "version": __version__, **body}
    path = run / TEST_READS
    with FileLock(run / LOCK):
        earlier = path.read_bytes() if path.exists() else b""
        end = b"" if not earlier or earlier.endswith(b"\n") else b"\n"  # behind a line that a crash has cut
        line = json.dumps({**body, "chain": _chain(earlier + end, body)}).encode() + b"\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, end + line)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return now


def _chain(before: bytes, body: dict[str, Any]) -> str:
    return hashlib.sha256(before + json.dumps(body, sort_keys=True).encode()).hexdigest()


def _lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


def _parsed(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) else None


def _entries(lines: list[bytes]) -> Iterator[dict[str, Any]]:
    return (entry for entry in map(_parsed, lines) if entry is not None)


def _opening(line: bytes) -> dict[str, Any] | None:
    """An opening's time, images and weights. A line that a crash has cut counts for any: it was an opening."""
    entry = _parsed(line)
    if entry is None or "images" not in entry:
        return None if entry is not None and "seal_sha256" in entry else _anything()
    return {
        "time": str(entry.get("time", "")),
        "images": entry["images"],
        "weights_sha256": entry.get("weights_sha256"),
    }


def _anything() -> dict[str, Any]:
    return {"time": "", "images": None, "weights_sha256": None}
