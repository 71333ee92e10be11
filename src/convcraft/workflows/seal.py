"""The seal of an evaluation: a hash of every file of a run that a published figure hangs on.

`convcraft verify` reads it. It shows what was changed afterwards; it is no signature: who can write the whole folder
can write a new seal too. What nobody can write is figures that the weights do not give on the test images, which
verify computes again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import convcraft
from convcraft import __version__
from convcraft.data.durable_files import read_json, write_json
from convcraft.errors import UserError
from convcraft.training.checkpoint import CHECKPOINTS
from convcraft.training.run_folder import SUMMARY
from convcraft.workflows.before import BEFORE
from convcraft.workflows.test_reads import LOCK, TEST_READS, last_seal, record_seal

SEAL = "seal.json"
UNSEALED = {SEAL, TEST_READS, LOCK, "run.lock", "explain_checks.json"}  # and what lies in folders of trackers


@dataclass(frozen=True)
class Seal:
    """files: name relative to the run folder -> SHA-256. code_sha256: of the package that made them."""

    time: str
    version: str
    code_sha256: str
    files: dict[str, str]


def seal(run: Path) -> Seal:
    """Hash what stands in a run folder now, write it down, and note the seal in the record of openings."""
    files = {name: file_sha256(run / name) for name in _sealed_names(run)}
    made = Seal(datetime.now(UTC).isoformat(timespec="seconds"), __version__, code_sha256(), files)
    write_json(run / SEAL, {"seal_format": 1, **vars(made)})
    record_seal(run, file_sha256(run / SEAL))
    return made


def read_seal(run: Path) -> Seal:
    """The seal as it was written.

    Raises:
        UserError: there is none, it cannot be read, or it is not the one that was noted last.
    """
    fix = "Evaluate the run again: convcraft evaluate RUN"
    if not (run / SEAL).exists():
        raise UserError(f"{run} has no {SEAL}", "a run that `convcraft evaluate` has judged", fix)
    saved: dict[str, Any] = read_json(run / SEAL)
    if file_sha256(run / SEAL) != last_seal(run):
        raise UserError(f"{SEAL} is not the one that {TEST_READS} names", "the seal as it was written", fix)
    try:
        return Seal(saved["time"], saved["version"], saved["code_sha256"], dict(saved["files"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{SEAL}: {error}", "the seal of this version", fix) from error


def changed_files(run: Path, made: Seal) -> Iterator[tuple[str, str]]:
    """Each sealed file that is not what it was, and what became of it."""
    for name, sha256 in made.files.items():
        path = run / name
        if not path.is_file():
            yield name, "is gone"
        elif file_sha256(path) != sha256:
            yield name, "was changed after it was sealed"


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def code_sha256() -> str:
    """Of the package's own modules: names and contents."""
    root = Path(convcraft.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sealed_names(run: Path) -> list[str]:
    """The files of the folder itself, and those of the checkpoints that the figures are of."""
    names = [path.name for path in run.iterdir() if path.is_file() and path.name not in UNSEALED]
    names = [name for name in names if not name.startswith(".")]
    for folder in {read_json(run / SUMMARY)["checkpoint"], BEFORE}:
        names += [path.relative_to(run).as_posix() for path in (run / CHECKPOINTS / folder).glob("*") if path.is_file()]
    return sorted(names)
