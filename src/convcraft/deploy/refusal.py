"""What the guards say of a file that must not reach a runtime.

A guard reads bytes that anybody may have written. It runs nothing of them and never asks a runtime.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from convcraft.errors import UserError

FIX = "It was not loaded. Export the network again; take model files from nobody whom you do not trust."
NAME_LETTERS = 60
KINDS = (
    (b"PK\x03\x04", "a zip archive, such as torch.save writes: it can hold code"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file, such as Keras writes"),
    (b"GGUF", "a GGUF file"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself (run `git lfs pull`)"),
    (b"{", "JSON text"),
    (b"<", "XML or HTML text"),
    (b"MZ", "a Windows program"),
    (b"\x7fELF", "a program"),
)


class Refused(ValueError):
    """What a guard found and what it expected, without the file's name, which `named` adds."""

    def __init__(self, found: str, expected: str) -> None:
        self.found, self.expected = found, expected
        super().__init__(f"{found}; expected {expected}")


@contextlib.contextmanager
def named(file: str, fix: str = FIX) -> Iterator[None]:
    """Turns Refused into a UserError that names the file and says what to do."""
    try:
        yield
    except Refused as refused:
        raise UserError(f"{file} {refused.found}", refused.expected, fix) from refused


def shown(name: str) -> str:
    """A name from a file as it can stand in a message: quoted, escaped, and cut."""
    return repr(name if len(name) <= NAME_LETTERS else name[:NAME_LETTERS] + "…")


def kind_of(data: bytes) -> str:
    """What a file looks like by its first bytes: ", it is a pickle ..."; nothing where that is unknown."""
    if data[:1] == b"\x80" and data[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return ", it is a pickle, which can run code when it is read"
    if data[4:8] == b"ORTM":
        return ", it is in ONNX Runtime's own format (.ort)"
    found = next((kind for magic, kind in KINDS if data.startswith(magic)), "")
    return f", it is {found}" if found else ""
