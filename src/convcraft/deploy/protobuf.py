"""Protocol Buffers, read strictly by a schema: what a message holds, before any runtime takes it up.

Numbers in bulk are views of the given bytes, never copies. Whatever a usual reader would pass over in silence is
refused, because a runtime could read it in another way than the guard: unknown fields, another wire type than the
schema's, a single field that comes twice (readers merge both), groups, numbers that do not fit their type.

Source: Protocol Buffers, "Encoding" (protobuf.dev/programming-guides/encoding).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5  # wire types; 3 and 4, groups, are refused
VARINT_BYTES = 10

Message = dict[str, Any]


class Kind(Enum):
    """How a field's bytes are meant.

    INT32, INT64: the number; a repeated field gives a list. VARINTS, FLOATS, DOUBLES: repeated numbers, packed or not,
    of which only the count is kept. BITS32: four bytes whose meaning does not matter. TEXT: UTF-8. BYTES: a view.
    """

    INT32 = "int32", VARINT
    INT64 = "int64", VARINT
    VARINTS = "varints", VARINT
    FLOATS = "floats", FIXED32
    DOUBLES = "doubles", FIXED64
    BITS32 = "bits32", FIXED32
    TEXT = "text", LENGTH
    BYTES = "bytes", LENGTH

    @property
    def wire_type(self) -> int:
        return self.value[1]


INTEGERS = (Kind.INT32, Kind.INT64)
COUNTED = (Kind.VARINTS, Kind.FLOATS, Kind.DOUBLES)
FIXED_BYTES = {FIXED32: 4, FIXED64: 8}


@dataclass(frozen=True)
class Field:
    """One field of a message. kind: how to read it, or the schema of the message in it."""

    name: str
    kind: Kind | Schema
    repeated: bool = False

    @property
    def wire_types(self) -> tuple[int, ...]:
        """Repeated numbers may be packed."""
        if isinstance(self.kind, Schema):
            return (LENGTH,)
        return (self.kind.wire_type, LENGTH) if self.repeated else (self.kind.wire_type,)


@dataclass(eq=False)
class Schema:
    """The fields of a kind of message by number; all others are refused. Filled after it was made where it recurs.

    refused: fields that are known and not wanted, in words for the error.
    """

    name: str
    fields: dict[int, Field]
    refused: dict[int, str] = field(default_factory=dict)

    @cached_property
    def by_tag(self) -> dict[int, Field]:
        """Fields by what stands before them: the number and a wire type that is right for them."""
        return {number << 3 | wire: wanted for number, wanted in self.fields.items() for wire in wanted.wire_types}


def decode(data: bytes, schema: Schema, *, max_depth: int, max_fields: int) -> Message:
    """A message and all messages in it: name -> value; a list where the field is repeated, a count where numbers are
    only counted. Absent fields are absent.

    Args:
        max_depth: how many messages may stand in one another.
        max_fields: how many fields there may be in all of them together.

    Raises:
        ValueError: the message says where and what.
    """
    return _Decoder(data, max_depth, max_fields).message(0, len(data), schema, 1)


class _Decoder:
    def __init__(self, data: bytes, max_depth: int, max_fields: int) -> None:
        self._data, self._view = data, memoryview(data)
        self._max_depth, self._max_fields = max_depth, max_fields
        self._num_fields = 0

    def message(self, start: int, end: int, schema: Schema, depth: int) -> Message:
        """The message in data[start:end]."""
        if depth > self._max_depth:
            raise ValueError(f"over {self._max_depth} messages in one another")
        found: Message = {}
        position, by_tag = start, schema.by_tag
        while position < end:
            self._count_field()
            tag, position = self._varint(position, end)
            wanted = by_tag.get(tag)
            if wanted is None:
                raise ValueError(_unwanted(schema, tag))
            wire_type = tag & 7
            if wire_type == VARINT:
                number, position = self._varint(position, end)
                self._add_number(found, wanted, number)
                continue
            length, position = (
                self._varint(position, end) if wire_type == LENGTH else (FIXED_BYTES[wire_type], position)
            )
            if length > end - position:
                raise ValueError(f"{schema.name}.{wanted.name} of {length:,} bytes, where {end - position:,} are left")
            if isinstance(wanted.kind, Schema):
                _add(found, wanted, self.message(position, position + length, wanted.kind, depth + 1))
            else:
                self._add_bytes(found, wanted, wire_type, position, position + length)
            position += length
        return found

    def _varint(self, position: int, end: int) -> tuple[int, int]:
        """An unsigned number of at most 64 bits, and where it ends."""
        data = self._data
        if position < end and data[position] < 0x80:
            return data[position], position + 1
        value = shift = 0
        for index in range(position, min(position + VARINT_BYTES, end)):
            byte = data[index]
            value |= (byte & 0x7F) << shift
            if byte < 0x80 and value < 1 << 64:
                return value, index + 1
            shift += 7
        raise ValueError("a number that does not end within 64 bits")

    def _add_number(self, found: Message, wanted: Field, number: int) -> None:
        if wanted.kind is Kind.VARINTS:
            found[wanted.name] = found.get(wanted.name, 0) + 1
        else:
            _add(found, wanted, _signed(wanted, number))

    def _add_bytes(self, found: Message, wanted: Field, wire_type: int, start: int, end: int) -> None:
        kind = wanted.kind
        if kind is Kind.TEXT:
            try:
                _add(found, wanted, self._data[start:end].decode())
            except UnicodeDecodeError:
                raise ValueError(f"{wanted.name} is no UTF-8") from None
        elif kind in COUNTED:
            count = _count(self._view[start:end], wanted) if wire_type == LENGTH else 1
            found[wanted.name] = found.get(wanted.name, 0) + count
        elif kind in INTEGERS:
            for number in self._packed(start, end):
                _add(found, wanted, _signed(wanted, number))
        else:
            _add(found, wanted, self._view[start:end])

    def _packed(self, position: int, end: int) -> Iterator[int]:
        while position < end:
            self._count_field()
            value, position = self._varint(position, end)
            yield value

    def _count_field(self) -> None:
        self._num_fields += 1
        if self._num_fields > self._max_fields:
            raise ValueError(f"over {self._max_fields:,} fields")


def _add(found: Message, wanted: Field, value: Any) -> None:
    name = wanted.name
    if wanted.repeated:
        found.setdefault(name, []).append(value)
    elif name in found:
        raise ValueError(f"{name} twice")
    else:
        found[name] = value


def _unwanted(schema: Schema, tag: int) -> str:
    number, wire_type = tag >> 3, tag & 7
    if number in schema.fields:
        return f"{schema.name}.{schema.fields[number].name} of the wire type {wire_type}"
    return f"{schema.name} with {schema.refused.get(number, f'the unknown field {number}')}"


def _signed(wanted: Field, number: int) -> int:
    """Two's complement of 64 bits; an int32 is stored so as well."""
    value = number - (1 << 64) if number >= 1 << 63 else number
    if wanted.kind is Kind.INT32 and not -(1 << 31) <= value < 1 << 31:
        raise ValueError(f"{wanted.name} = {value}, which is over 32 bits")
    return value


def _count(packed: memoryview, wanted: Field) -> int:
    """How many numbers are packed in some bytes."""
    if wanted.kind is Kind.VARINTS:
        return _count_varints(packed, wanted.name)
    num_bytes = 4 if wanted.kind is Kind.FLOATS else 8
    if len(packed) % num_bytes:
        raise ValueError(f"{wanted.name} of {len(packed):,} bytes, which are no numbers of {num_bytes}")
    return len(packed) // num_bytes


def _count_varints(packed: memoryview, name: str) -> int:
    if not len(packed):
        return 0
    ends = np.flatnonzero(np.frombuffer(packed, dtype=np.uint8) < 0x80)
    if not len(ends) or ends[-1] != len(packed) - 1 or np.diff(ends, prepend=-1).max() > VARINT_BYTES:
        raise ValueError(f"{name} with a number that does not end")
    return len(ends)
