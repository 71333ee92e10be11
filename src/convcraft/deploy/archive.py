"""The files of a bundle, from a folder or a zip into memory and back: plain files with plain names, and nothing else.

What is read may have been packed by anybody. Names say where a file stands in the bundle, never a place on this
machine; nothing is unpacked to the disk, no link is followed, and no more is read than was declared.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from convcraft.data.durable_files import sync_folder, write_durably
from convcraft.deploy.plain_zip import FIRST_BYTES, packed_files, unpacked
from convcraft.deploy.refusal import Refused, named, shown

NAME = re.compile(r"[A-Za-z0-9._-]{1,100}(/[A-Za-z0-9._-]{1,100})?", re.ASCII)
MANIFEST = "bundle.json"  # a folder with this file may be replaced by a new bundle
ELSEWHERE = "Nothing was written. Choose another place."
MAX_FILES = 200
MAX_BYTES = 4 << 30  # of all files together, unpacked
PLAIN_NAMES = "letters, digits, '.', '_' and '-', at most one folder deep"

ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can hold


def read_files(path: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
    """Every file of a bundle by its name there ("model.onnx", "probes/0.png"), each read once.

    Args:
        path: a folder or a zip file.
        max_bytes: of all files together, unpacked.

    Raises:
        UserError: neither; names that are not plain or are doubled; links, pipes and devices; encryption, other packing
            than deflate, sizes that lie, bombs, anything before, between or behind the packed files; too much of it.
    """
    with named(str(path)):
        try:
            if path.is_dir():
                return _read_folder(path, max_bytes)
            return _read_zip(_read_regular(path, max_bytes, follow=True), max_bytes)
        except OSError as error:
            raise Refused(f"cannot be read ({error.strerror})", "a folder or a zip file") from error


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip with files in it does, whatever it is called; False where it cannot be read."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            return False
        with path.open("rb") as file:
            return file.read(len(FIRST_BYTES)) == FIRST_BYTES
    except OSError:
        return False


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle as a folder that is there whole or not at all. An older bundle in its place is replaced.

    Raises:
        UserError: names that could not be read back; a folder with other things in it, or a file.
        OSError: the disk is full or refuses; what was there is untouched.
    """
    with named(str(path), ELSEWHERE):
        _check_names(list(files))
        if path.exists() and (not path.is_dir() or (any(path.iterdir()) and not (path / MANIFEST).is_file())):
            raise Refused("is not an empty folder and holds no bundle", "a new name, or the folder of an older bundle")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _folder_beside(path) as beside:
        draft, old = beside / "new", beside / "old"
        for name, content in sorted(files.items()):
            place = draft / name
            place.parent.mkdir(parents=True, exist_ok=True)
            write_durably(place, content)
        for folder in {draft, *((draft / name).parent for name in files)}:
            sync_folder(folder)
        if path.exists():
            path.rename(old)
        try:
            draft.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise
        sync_folder(path.parent)


def write_zip(path: Path, files: Mapping[str, bytes]) -> None:
    """Write a bundle as a zip: the same bytes from the same files on every machine. An older zip is replaced.

    Names are sorted, times fixed, and nothing is packed: weights hardly shrink, and packing differs between versions
    of zlib.

    Raises:
        UserError: names that could not be read back; something other than a zip file in its place.
        OSError: the disk is full or refuses; what was there is untouched.
    """
    with named(str(path), ELSEWHERE):
        _check_names(list(files))
        if path.exists() and not zipfile.is_zipfile(path):
            raise Refused("is there already and no zip file", "a new name, or an older bundle to replace")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        for name, content in sorted(files.items()):
            entry = zipfile.ZipInfo(name, ZIP_TIME)
            entry.create_system, entry.external_attr = 3, (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, content)
    with _folder_beside(path) as beside:
        write_durably(beside / "new", packed.getvalue())
        (beside / "new").replace(path)
        sync_folder(path.parent)


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """An empty folder under a name that nobody has, on the same disk, so that what is in it can be renamed to `path`;
    removed in the end."""
    folder = Path(tempfile.mkdtemp(dir=path.parent, prefix="."))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- names ---


def _check_names(names: Sequence[str]) -> None:
    """Plain names that are different files on every file system."""
    if len(names) > MAX_FILES:
        raise Refused(f"holds {len(names):,} files", f"at most {MAX_FILES}")
    seen: set[str] = set()
    for name in names:
        parts = name.split("/")
        # A final dot does not count on Windows: "a." is "a" there, and ".." is no name at all.
        if not NAME.fullmatch(name) or any(part.endswith(".") for part in parts):
            raise Refused(f"holds {shown(name)}", f"names of {PLAIN_NAMES}")
        if name.lower() in seen:
            raise Refused(f"holds {shown(name)} twice, or in capital and small letters", "each name once")
        seen.add(name.lower())
    for folder in {name.split("/")[0] for name in seen if "/" in name}:
        if folder in seen:
            raise Refused(f"holds {shown(folder)} as a file and as a folder", "each name once")


def _check_folders(names: Sequence[str]) -> None:
    """Zip files may list folders as well; they hold nothing themselves."""
    _check_names(names)
    for name in names:
        if "/" in name:
            raise Refused(f"holds the folder {shown(name)}", f"names of {PLAIN_NAMES}")


# --- reading ---


def _read_zip(data: bytes, max_bytes: int) -> dict[str, bytes]:
    packed = packed_files(data)
    files = [file for file in packed if not file.is_folder]
    _check_names([file.name for file in files])
    _check_folders([file.name.removesuffix("/") for file in packed if file.is_folder])
    _check_total(sum(file.num_bytes for file in files), max_bytes)
    return {file.name: unpacked(data, file) for file in files}


def _read_folder(root: Path, max_bytes: int) -> dict[str, bytes]:
    names = list(_names_in(root))
    _check_names(names)
    files: dict[str, bytes] = {}
    for name in sorted(names):
        files[name] = _read_regular(root / name, max_bytes, follow=False)
        max_bytes -= len(files[name])
    return files


def _names_in(root: Path, folder: str = "") -> Iterator[str]:
    """The files of a folder and of the folders in it; links and anything deeper are refused."""
    with os.scandir(root / folder) as entries:
        for count, entry in enumerate(entries):
            name = folder + entry.name
            if count > MAX_FILES:
                raise Refused(f"holds over {MAX_FILES} files", f"at most {MAX_FILES}")
            if entry.is_symlink():
                raise Refused(f"holds {shown(name)}, a link", "plain files")
            if not entry.is_dir(follow_symlinks=False):
                yield name
            else:
                _check_folders([name])
                yield from _names_in(root, name + "/")


def _read_regular(path: Path, max_bytes: int, *, follow: bool) -> bytes:
    """A file that is one before and after it is opened: a pipe would be waited for, a device read for ever."""
    _check_regular(path.stat(follow_symlinks=follow).st_mode, path.name)
    flags = 0 if follow else getattr(os, "O_NOFOLLOW", 0)
    for name in ("O_NONBLOCK", "O_BINARY", "O_CLOEXEC"):
        flags |= getattr(os, name, 0)
    with os.fdopen(os.open(path, os.O_RDONLY | flags), "rb") as file:
        facts = os.fstat(file.fileno())
        _check_regular(facts.st_mode, path.name)
        _check_total(facts.st_size, max_bytes)
        content = file.read(facts.st_size + 1)
    if len(content) != facts.st_size:
        raise Refused(f"holds {shown(path.name)}, which changed while it was read", "files that keep still")
    return content


def _check_regular(mode: int, name: str) -> None:
    if not stat.S_ISREG(mode):
        raise Refused(f"holds {shown(name)}, which is a link, a pipe or a device", "plain files")


def _check_total(num_bytes: int, max_bytes: int) -> None:
    if num_bytes > max_bytes:
        raise Refused(f"holds {num_bytes:,} bytes or more where {max_bytes:,} are allowed", "a bundle within the limit")
