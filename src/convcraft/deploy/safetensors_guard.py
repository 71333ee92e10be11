"""Whether a safetensors file is one: its header is checked against its length before anything is made of it.

The safetensors library checks much of this itself, after it has taken the header at its word. Here nothing is reserved
for what a header merely claims, doubled names do not pass, and the message says what is wrong.

Layout: 8 bytes with the header's length (little endian), the header (JSON: name -> dtype, shape, data_offsets), then
the numbers, without holes and without overlaps. Source: github.com/huggingface/safetensors, "Format"; names of types as
in safetensors 0.8.
"""

from __future__ import annotations

import json
from math import prod
from typing import Any, NoReturn

from convcraft.deploy.refusal import Refused, kind_of, named, shown

MAX_HEADER_BYTES = 4_000_000  # about 40,000 tensors; the format itself allows 100 MB
MAX_DIMENSIONS = 16
MAX_DIGITS = 19
METADATA = "__metadata__"
ENTRIES = {"dtype", "shape", "data_offsets"}
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


def check_safetensors(data: bytes, file: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Refuse what is no whole, plain safetensors file.

    Args:
        data: the whole file. file: its name, for the message.

    Returns:
        dtype as the format names it ("F32") and shape of every tensor by name, in the order of their numbers.

    Raises:
        UserError: another kind of file, a header that is too long, doubled, or does not match the numbers behind it.
    """
    with named(file):
        header, num_bytes = _header(data)
        metadata = header.pop(METADATA, {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise Refused(f"has {METADATA} that is not text alone", "text by name")
        tensors = {name: _tensor(name, entry) for name, entry in header.items()}
        in_order = sorted(tensors, key=lambda name: tensors[name][2])
        _check_contiguous([(name, tensors[name][2]) for name in in_order], num_bytes)
        return {name: tensors[name][:2] for name in in_order}


def _header(data: bytes) -> tuple[dict[str, Any], int]:
    """The header, and how many bytes follow it."""
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{":
        raise Refused(f"is no safetensors file{kind_of(data)}", "a safetensors file")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        limits = f"at most {MAX_HEADER_BYTES:,}, and no more than the file has"
        raise Refused(f"says that its header has {length:,} bytes", limits)
    try:
        header = json.loads(
            data[8 : 8 + length].decode(),
            object_pairs_hook=_without_doubles,
            parse_int=_whole_number,
            parse_float=_no_number,
            parse_constant=_no_number,
        )
    except (ValueError, RecursionError) as error:
        if isinstance(error, Refused):
            raise
        raise Refused(f"has a header that is no JSON ({error})", "an undamaged safetensors file") from error
    if not isinstance(header, dict):
        raise Refused("has a header that is no JSON object", "an undamaged safetensors file")
    return header, len(data) - 8 - length


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Readers differ in which of two equal names they take."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise Refused(f"names {shown(name)} twice", "each name once")
        found[name] = value
    return found


def _whole_number(digits: str) -> int:
    return int(digits) if len(digits) <= MAX_DIGITS else _no_number(digits)


def _no_number(text: str) -> NoReturn:
    raise Refused(f"has {shown(text)} in its header", f"whole numbers of at most {MAX_DIGITS} digits")


def _tensor(name: str, entry: Any) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """dtype, shape, and where its numbers lie, after they were found to agree."""
    if not isinstance(entry, dict) or entry.keys() != ENTRIES:
        raise Refused(f"describes the tensor {shown(name)} in another way", "dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise Refused(f"has the tensor {shown(name)} of the unknown type {shown(str(dtype))}", "a type of safetensors")
    if not _are_sizes(shape) or len(shape) > MAX_DIMENSIONS or not _are_sizes(offsets) or len(offsets) != 2:
        raise Refused(f"has a shape or an offset of {shown(name)} that is no size", "whole numbers from 0 on")
    begin, end = offsets
    num_bits = prod(shape) * BITS[dtype]
    if num_bits % 8 or begin + num_bits // 8 != end:
        sizes = " x ".join(map(str, shape)) or "one number"
        raise Refused(
            f"has {shown(name)}, {sizes} of {dtype}, in the bytes {begin} to {end}", f"{num_bits / 8:,g} bytes"
        )
    return dtype, tuple(shape), (begin, end)


def _are_sizes(values: Any) -> bool:
    """JSON's true is no size, though Python counts with it."""
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _check_contiguous(places: list[tuple[str, tuple[int, int]]], num_bytes: int) -> None:
    position = 0
    for name, (begin, end) in places:
        if begin != position:
            what = "a hole" if begin > position else "an overlap"
            raise Refused(f"has {what} before the numbers of {shown(name)}", "numbers that follow one another")
        position = end
    if position != num_bytes:
        raise Refused(f"describes {position:,} bytes of numbers, and holds {num_bytes:,}", "as many as it describes")
