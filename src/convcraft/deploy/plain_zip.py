"""Zip files in which nothing is hidden: what they list is what they hold, from the first byte to the last.

Readers of zip differ in what they believe: the list at the end or the header before each file, the sizes here or there,
the last list or the first. What is accepted here says the same in all places, so that there is one way to read it.

Source: APPNOTE.TXT, the .ZIP file format specification (PKWARE, 6.3.10): 4.3.7, 4.3.12, 4.3.16, 4.4.4.
"""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from convcraft.deploy.refusal import Refused, kind_of, shown

FIRST_BYTES = b"PK\3\4"
LOCAL_HEADER = struct.Struct("<4s5H3I2H")
CENTRAL_HEADER = struct.Struct("<4s6H3I5H2I")
END_RECORD = struct.Struct("<4s4H2IH")
ENCRYPTED = 0x0001 | 0x0040 | 0x2000
SIZES_BEHIND = 0x0008  # size and checksum stand behind the data, in a descriptor
NOTHING, DESCRIPTOR = range(1), range(12, 25)  # bytes between one file and the next
NEWEST_NEEDED = 63  # version 6.3 of the format
MAX_LIST_BYTES = 1 << 20
BOMB_BYTES, BOMB_RATIO = 1 << 20, 1000  # what unpacks to over 1 MiB and a thousand times its size is no network
PLAIN = "a plain zip file"


@dataclass(frozen=True)
class Packed:
    """A file in a zip, as the list at the end describes it.

    attributes: st_mode of Unix, or 0. header: where its own header begins. begin: where its packed bytes begin.
    """

    name: str
    flags: int
    method: int
    checksum: int
    packed_bytes: int
    num_bytes: int
    attributes: int
    header: int
    begin: int = 0

    @property
    def is_folder(self) -> bool:
        return self.name.endswith("/")


def packed_files(data: bytes) -> list[Packed]:
    """What a zip holds, files and folders, none of them unpacked yet.

    Raises:
        Refused: no zip, or a cut or damaged one; links and devices; encryption; another packing than deflate; sizes
            that contradict each other; bombs; overlaps; anything before, between or behind the files.
    """
    listed, end = _listed(data)
    for file in listed:
        _check_file(file)
    return _located(data, listed, end)


def unpacked(data: bytes, file: Packed) -> bytes:
    """The bytes of a file, of which no more are made than were declared.

    Raises:
        Refused: they are not as many as declared, or have another checksum.
    """
    packed = data[file.begin : file.begin + file.packed_bytes]
    content, whole = packed, True
    if file.method == zipfile.ZIP_DEFLATED:
        unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            content = unpacker.decompress(packed, file.num_bytes + 1)
        except zlib.error as error:
            raise Refused(f"holds {shown(file.name)}, which is damaged ({error})", "an undamaged zip") from error
        whole = unpacker.eof and not unpacker.unused_data
    if not whole or len(content) != file.num_bytes or zlib.crc32(content) != file.checksum:
        raise Refused(f"holds {shown(file.name)} with other bytes than it says", "an undamaged zip")
    return content


def _listed(data: bytes) -> tuple[list[Packed], int]:
    """The list of files, and where it begins. It ends where the end record begins, and that ends the zip."""
    end = len(data) - END_RECORD.size
    if data[:4] != FIRST_BYTES or end < 0:
        raise Refused(f"is neither a folder nor a zip with files in it{kind_of(data)}", "a bundle")
    mark, disk, first_disk, here, total, num_bytes, begin, comment_bytes = END_RECORD.unpack_from(data, end)
    whole = mark == b"PK\5\6" and (disk, first_disk, comment_bytes) == (0, 0, 0) and here == total
    if not whole or begin + num_bytes != end or num_bytes > MAX_LIST_BYTES:
        raise Refused("is a zip that is cut, or that has something behind its files", PLAIN)
    files, position = [], begin
    for _ in range(total):
        file, position = _listed_file(data, position, end)
        files.append(file)
    if position != end:
        raise Refused("is a zip whose list of files has another length than it says", PLAIN)
    return files, begin


def _listed_file(data: bytes, position: int, end: int) -> tuple[Packed, int]:
    """One entry of the list, and where the next begins."""
    name_begin = position + CENTRAL_HEADER.size
    if name_begin > end:
        raise Refused("is a zip whose list of files is cut", PLAIN)
    header = CENTRAL_HEADER.unpack_from(data, position)
    mark, _, needed, flags, method, _, _, checksum, packed_bytes, num_bytes, *lengths, disk, _, attributes, begin = (
        header
    )
    behind = name_begin + sum(lengths)  # of the name, extra fields and the comment
    if mark != b"PK\1\2" or disk or behind > end or needed > NEWEST_NEEDED:
        raise Refused("is a zip whose list of files is damaged", PLAIN)
    name = data[name_begin : name_begin + lengths[0]].decode("latin-1")
    return Packed(name, flags, method, checksum, packed_bytes, num_bytes, attributes >> 16, begin), behind


def _check_file(file: Packed) -> None:
    what = f"holds {shown(file.name)}"
    if stat.S_IFMT(file.attributes) not in (0, stat.S_IFDIR if file.is_folder else stat.S_IFREG):
        raise Refused(f"{what}, which is a link, a pipe or a device", "plain files")
    if file.is_folder and file.packed_bytes:
        raise Refused(f"{what}, a folder with {file.packed_bytes:,} bytes", "bytes in files alone")
    if file.flags & ENCRYPTED:
        raise Refused(f"{what}, which is encrypted", "files without encryption")
    if file.method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise Refused(f"{what}, packed by the method {file.method}", "files that are stored or deflated")
    if file.method == zipfile.ZIP_STORED and file.packed_bytes != file.num_bytes:
        raise Refused(f"{what} of {file.num_bytes:,} bytes, stored in {file.packed_bytes:,}", "one size")
    if file.num_bytes > max(BOMB_BYTES, BOMB_RATIO * file.packed_bytes):
        raise Refused(f"{what}, which unpacks to over {BOMB_RATIO:,} times its size", "weights, which hardly shrink")


def _located(data: bytes, files: Sequence[Packed], end: int) -> list[Packed]:
    """The files with the places of their bytes: one behind the other from the first byte on, none shared, none left."""
    located, position, between = [], 0, NOTHING
    for file in sorted(files, key=lambda file: file.header):
        if file.header - position not in between:
            raise Refused(f"has an overlap or a hole before {shown(file.name)}", "files that follow one another")
        begin = _behind_header(data, file, end)
        located.append(replace(file, begin=begin))
        position = begin + file.packed_bytes
        between = DESCRIPTOR if file.flags & SIZES_BEHIND else NOTHING
    if end - position not in between:
        raise Refused("has an overlap or a hole before its list of files", "files that follow one another")
    return located


def _behind_header(data: bytes, file: Packed, end: int) -> int:
    """Where a file's own header ends, after it was found to say the same as the list."""
    name_begin = file.header + LOCAL_HEADER.size
    if name_begin > end:
        raise Refused(f"has no header of {shown(file.name)}", PLAIN)
    mark, _, flags, method, _, _, *sizes, name_bytes, extra_bytes = LOCAL_HEADER.unpack_from(data, file.header)
    name = data[name_begin : name_begin + name_bytes].decode("latin-1")
    agrees = sizes == [file.checksum, file.packed_bytes, file.num_bytes]
    left_open = bool(flags & SIZES_BEHIND) and sizes == [0, 0, 0]
    same = (name, method, flags) == (file.name, file.method, file.flags) and (agrees or left_open)
    if mark != FIRST_BYTES or not same:
        raise Refused(f"says two things of {shown(file.name)}", "a zip whose headers agree")
    return name_begin + name_bytes + extra_bytes
