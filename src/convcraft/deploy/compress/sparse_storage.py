"""Tensors with many zeros in fewer bytes, without losing a bit.

The file is a .safetensors file (Hugging Face's format: a JSON header and bytes, nothing that could run). Each tensor is
kept in the form that is smallest for it:

- `dense`: all elements;
- `mask`: one bit per element, set where it has a bit that is not zero, and the elements that are set. So -0.0 and every
  NaN come back as they were.

Each part is deflated (zlib) where that is smaller still, the first bytes of all elements first, then the second ones,
and so on: the exponents of weights are much alike. Entries are named by number; the header's metadata says which tensor
each is. A reader checks every size against its limit before it asks for memory.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from convcraft.errors import UserError

FORMAT, VERSION = "convcraft-sparse", 1
MAX_BYTES = 4 << 30  # of all tensors together, unpacked
MAX_HEADER_BYTES = 16 << 20
MAX_DIMENSIONS = 16
ZLIB_LEVEL = 9
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.float8_e4m3fn,
        torch.float8_e5m2,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
Bytes = NDArray[np.uint8]


def pack(tensors: Mapping[str, Tensor]) -> bytes:
    """A sparse file of named tensors.

    Raises:
        UserError: a type of element that the format does not know.
    """
    parts: dict[str, Tensor] = {}
    described = []
    for number, (name, tensor) in enumerate(tensors.items()):
        dtype = str(tensor.dtype).removeprefix("torch.")
        if dtype not in DTYPES:
            raise UserError(f"{name} is of type {dtype}", "one of " + ", ".join(DTYPES), "Convert it first.")
        entry: dict[str, Any] = {"name": name, "dtype": dtype, "shape": list(tensor.shape)}
        for kind, part in _smallest(_rows(tensor)).items():
            entry[kind] = {"deflated": part.deflated}
            parts[f"{number}.{kind}"] = torch.from_numpy(part.content)
        described.append(entry)
    # one entry alone: safetensors writes several in an order of chance
    return save(parts, {FORMAT: json.dumps({"version": VERSION, "tensors": described})})


def unpack(content: bytes, max_bytes: int = MAX_BYTES) -> dict[str, Tensor]:
    """The tensors of a sparse file, bit for bit.

    Args:
        max_bytes: that all tensors together may take.

    Raises:
        UserError: no such file, a damaged one, or one that claims more than it may or more than it holds.
    """
    described = _described(content)
    total = sum(_num_bytes(entry) for entry in described)
    if total > max_bytes:
        received = f"a sparse file that claims {total:,} bytes of tensors"
        raise UserError(received, f"at most {max_bytes:,} bytes", "Do not use this file, or raise the limit.")
    try:
        parts = load(content)
    except (SafetensorError, ValueError) as error:
        raise _damaged(str(error)) from error
    tensors = {}
    for number, entry in enumerate(described):
        found = {kind: parts.pop(f"{number}.{kind}", None) for kind in ("dense", "mask", "values")}
        tensors[entry["name"]] = _restored(entry, found)
    if parts or len(tensors) != len(described):
        raise _damaged("entries that no tensor claims, or two tensors of one name")
    return tensors


class _Part:
    """Bytes of a file: as they are, or deflated where that is smaller."""

    def __init__(self, plain: Bytes) -> None:
        packed = zlib.compress(plain.tobytes(), ZLIB_LEVEL)
        self.deflated = len(packed) < plain.size
        self.content = np.frombuffer(packed, np.uint8).copy() if self.deflated else plain


def _rows(tensor: Tensor) -> Bytes:
    """The bytes of each element: uint8 [N, size]."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().reshape(flat.numel(), flat.element_size())


def _smallest(rows: Bytes) -> dict[str, _Part]:
    """The parts of one tensor, in the form that takes fewer bytes."""
    dense = {"dense": _Part(_by_place(rows))}
    if not rows.size:
        return dense
    is_set = rows.any(axis=1)
    sparse = {"mask": _Part(np.packbits(is_set)), "values": _Part(_by_place(rows[is_set]))}
    return min(dense, sparse, key=lambda form: sum(part.content.size for part in form.values()))


def _by_place(rows: Bytes) -> Bytes:
    """First bytes of all elements, then second ones ...: uint8 [size * N]."""
    return np.ascontiguousarray(rows.T).reshape(-1)


def _described(content: bytes) -> list[dict[str, Any]]:
    """The metadata's list of tensors, every entry checked."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 0 < length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise _damaged("no header, or one that is longer than it may be")
    try:
        stated = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][FORMAT])
        if stated["version"] != VERSION:
            raise _damaged(f"version {stated['version']!r}, this convcraft reads {VERSION}")
        described = stated["tensors"]
        if not isinstance(described, list) or not all(_is_sound(entry) for entry in described):
            raise _damaged("descriptions of tensors that make no sense")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(f"{type(error).__name__}: {error}") from error
    return described


def _is_sound(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or entry.get("dtype") not in DTYPES:
        return False
    shape = entry.get("shape")
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        return False
    kinds = [kind for kind in ("dense", "mask", "values") if kind in entry]
    parts = [entry[kind] for kind in kinds]
    return (
        all(type(size) is int and 0 <= size < 1 << 48 for size in shape)
        and kinds in (["dense"], ["mask", "values"])
        and all(isinstance(part, dict) and type(part.get("deflated")) is bool for part in parts)
    )


def _num_elements(entry: dict[str, Any]) -> int:
    return math.prod(entry["shape"])


def _num_bytes(entry: dict[str, Any]) -> int:
    return _num_elements(entry) * DTYPES[entry["dtype"]].itemsize


def _restored(entry: dict[str, Any], found: dict[str, Tensor | None]) -> Tensor:
    number, dtype = _num_elements(entry), DTYPES[entry["dtype"]]
    size = dtype.itemsize
    if "dense" in entry:
        rows = _plain(found["dense"], entry, "dense", number * size).reshape(size, number).T
    else:
        is_set = np.unpackbits(_plain(found["mask"], entry, "mask", -(-number // 8)))
        if is_set[number:].any():
            raise _damaged(f"{entry['name']}: bits behind the last element")
        is_set = is_set[:number].astype(bool)
        values = _plain(found["values"], entry, "values", int(is_set.sum()) * size)
        rows = np.zeros((number, size), np.uint8)
        rows[is_set] = values.reshape(size, -1).T
    if dtype is torch.bool and rows.size and rows.max() > 1:
        raise _damaged(f"{entry['name']}: truth values other than 0 and 1")
    flat = torch.from_numpy(np.array(rows, order="C").reshape(-1)).view(dtype)
    return flat.reshape(entry["shape"])


def _plain(part: Tensor | None, entry: dict[str, Any], kind: str, expected: int) -> Bytes:
    """A part's bytes, exactly as many as expected; never more are made."""
    if part is None or part.dtype != torch.uint8 or part.ndim != 1:
        raise _damaged(f"{entry['name']} without its {kind}")
    content = part.numpy()
    if entry[kind]["deflated"]:
        inflate = zlib.decompressobj()
        try:
            plain = inflate.decompress(content.tobytes(), expected + 1)
        except zlib.error as error:
            raise _damaged(f"{entry['name']}, {kind}: {error}") from error
        if not inflate.eof or inflate.unused_data:
            raise _damaged(f"{entry['name']}, {kind}: not the size that it claims")
        content = np.frombuffer(plain, np.uint8)
    if content.size != expected:
        raise _damaged(f"{entry['name']}, {kind}: {content.size} bytes, not {expected}")
    return content


def _damaged(what: str) -> UserError:
    return UserError(f"no sparse file of convcraft: {what}", "one as `pack` wrote it", "Fetch or make it again.")
