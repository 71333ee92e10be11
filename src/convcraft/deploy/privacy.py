"""Nothing in a bundle tells who made it and where: no home, no login, no folder of the exporting machine.

Compilers and tracers write the paths of source files into what they make; a bundle may go to anybody.
"""

from __future__ import annotations

import getpass
import io
import re
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from convcraft.errors import UserError

EVERYBODYS = {"/", "/usr", "/usr/local", "/opt", "/opt/conda", "/opt/homebrew", "/var/tmp", "/tmp", "/private/tmp"}
HOMES = rb"(?:/home|/Users|[\\/]Users|/var/home)[\\/]+"
# The name of a folder right below the root also stands in other text; behind a compiler's -I it is a path.
BEGIN_OF_PATH = rb"(?:(?<![\w.-])|(?<=-[IL]))"
END_OF_NAME = rb"""(?=[\\/\s"':;,\0]|$)"""
DEEPEST_ZIP = 3  # a zip in a zip in a zip
BEFORE = 200  # bytes of a path that may stand before a login
FIX = "This is a fault of convcraft's export; please report it. Another format may be free of it."


@dataclass(frozen=True)
class Private:
    """folders: paths that name this machine. login: of the user, counted inside paths alone; None: unknown."""

    folders: tuple[str, ...]
    login: str | None
    temporary: str


def of_this_machine() -> Private:
    """The user's home and login, the environment of Python, the working folder, a temporary folder of one's own."""
    temporary = tempfile.gettempdir()
    shared = [sys.prefix, sys.base_prefix, str(Path.cwd()), temporary, str(Path(__file__).parents[3])]
    found = [Path.home()]
    for folder in map(Path, shared):
        found += [folder, folder.resolve()]
    # A folder right below the root may be called like a layer of a network ("/data"); a home is told by its login.
    named = {str(folder) for folder in found[1:] if len(folder.parts) > 2}
    folders = {str(Path.home()), *named} - EVERYBODYS
    return Private(tuple(sorted(folders, key=len, reverse=True)), _login(), temporary)


def refuse_private(files: Mapping[str, bytes], private: Private | None = None) -> None:
    """
    Args:
        files: of a bundle, by name; zips in them are looked into.
        private: None: of this machine.

    Raises:
        UserError: a file that holds such a path; says which file and what was found.
    """
    private = private or of_this_machine()
    for name, content in files.items():
        for inner, data in _unpacked(name, content):
            for start, end in private_spans(data, private):
                text = data[start:end].decode(errors="replace")
                raise UserError(f"{inner} with {text!r} of this machine", "files that tell nothing of it", FIX)


def masked(content: bytes, private: Private | None = None) -> bytes:
    """As many bytes, with an x for every letter of a path that names this machine. For text that is only ever shown."""
    changed = bytearray(content)
    for start, end in private_spans(content, private or of_this_machine()):
        changed[start:end] = b"x" * (end - start)
    return bytes(changed)


def private_spans(content: bytes, private: Private) -> Iterator[tuple[int, int]]:
    """Where such paths stand: from, to. Spans may overlap."""
    for folder in private.folders:
        for written in _spellings(folder):
            before = BEGIN_OF_PATH if len(PurePath(folder).parts) < 3 else b""
            for match in re.finditer(before + re.escape(written) + END_OF_NAME, content):
                yield match.span()
    if private.login is not None:
        yield from _logins(content, private.login.encode(), private.temporary)


def _logins(content: bytes, login: bytes, temporary: str) -> Iterator[tuple[int, int]]:
    """A login in a path below the homes, or in a name of the temporary folder ("/tmp/torchinductor_ann/")."""
    below = rb"|".join([HOMES, *(re.escape(written) + rb"[\\/][\w.\\/-]*?" for written in _spellings(temporary))])
    path = re.compile(rb"(?:" + below + rb")(?<![A-Za-z0-9])" + re.escape(login) + rb"(?![A-Za-z0-9])")
    at = content.find(login)
    while at >= 0:
        end = at + len(login)
        start = max(0, at - BEFORE)
        for match in path.finditer(content[start : end + 1]):
            if start + match.end() == end:
                yield at, end
        at = content.find(login, end)


def _spellings(folder: str) -> set[bytes]:
    """As a path of this system, with slashes, and as JSON writes backslashes."""
    path = PurePath(folder)
    return {written.encode() for written in (str(path), path.as_posix(), str(path).replace("\\", "\\\\"))}


def _login() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return None


def _unpacked(name: str, content: bytes, depth: int = 0) -> Iterator[tuple[str, bytes]]:
    yield name, content
    if depth == DEEPEST_ZIP or not content.startswith(b"PK\x03\x04"):
        return
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for inner in archive.namelist():
            yield f"{name}/{inner}", inner.encode()
            yield from _unpacked(f"{name}/{inner}", archive.read(inner), depth + 1)
