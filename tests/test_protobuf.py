"""Protocol Buffers by hand: what their own library writes is read, and what it would pass over is refused."""

from __future__ import annotations

import pytest

from convcraft.deploy.protobuf import Field, Kind, Schema, decode

POINT = Schema(
    "Point",
    {
        1: Field("x", Kind.INT64),
        2: Field("small", Kind.INT32),
        3: Field("name", Kind.TEXT),
        4: Field("raw", Kind.BYTES),
        5: Field("sizes", Kind.INT64, repeated=True),
        6: Field("floats", Kind.FLOATS, repeated=True),
        7: Field("varints", Kind.VARINTS, repeated=True),
        8: Field("doubles", Kind.DOUBLES, repeated=True),
        10: Field("f", Kind.BITS32),
    },
    refused={11: "a map"},
)
POINT.fields[9] = Field("inner", POINT, repeated=True)


def read(data: bytes, max_depth: int = 5, max_fields: int = 100) -> dict:
    return decode(data, POINT, max_depth=max_depth, max_fields=max_fields)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", {}),
        (b"\x08\x96\x01", {"x": 150}),  # the example of the encoding's own page
        (b"\x08" + b"\xff" * 9 + b"\x01", {"x": -1}),
        (b"\x10" + b"\xfe" + b"\xff" * 8 + b"\x01", {"small": -2}),
        (b"\x1a\x07testing", {"name": "testing"}),
        (b"\x28\x01\x28\x02", {"sizes": [1, 2]}),
        (b"\x2a\x03\x01\x96\x01", {"sizes": [1, 150]}),
        (b"\x28\x07\x2a\x02\x01\x02", {"sizes": [7, 1, 2]}),  # packed and not, mixed
        (b"\x32\x08" + b"\0" * 8 + b"\x35" + b"\0" * 4, {"floats": 3}),
        (b"\x3a\x03\x01\x96\x01\x38\x05", {"varints": 3}),
        (b"\x42\x08" + b"\0" * 8, {"doubles": 1}),
        (b"\x55\0\0\x80\x3f", {"f": b"\0\0\x80\x3f"}),
        (b"\x4a\x02\x08\x01\x4a\x00", {"inner": [{"x": 1}, {}]}),
    ],
)
def test_fields_are_read(data: bytes, expected: dict) -> None:
    assert read(data) == expected


def test_bulk_is_not_copied() -> None:
    data = b"\x22\x80\x80\x40" + bytes(1 << 20)
    assert read(data)["raw"].obj is data


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08", "does not end"),
        (b"\x08\x80", "does not end"),
        (b"\x08" + b"\x80" * 10 + b"\x01", "64 bits"),
        (b"\x08" + b"\xff" * 9 + b"\x02", "64 bits"),
        (b"\x10\x80\x80\x80\x80\x08", "over 32 bits"),
        (b"\x1a\x05abc", "5 bytes, where 3 are left"),
        (b"\x1a" + b"\xff" * 9 + b"\x01", "are left"),
        (b"\x55\0\0", "4 bytes, where 2 are left"),
        (b"\x1a\x02\xff\xfe", "no UTF-8"),
        (b"\x08\x01\x08\x02", "x twice"),
        (b"\x1a\x00\x1a\x00", "name twice"),
        (b"\x09" + b"\0" * 8, "wire type 1"),
        (b"\x0a\x01\x05", "wire type 2"),  # a single number is never packed
        (b"\x4d" + b"\0" * 4, "wire type 5"),  # a message
        (b"\x0b\x0c", "wire type 3"),
        (b"\x00\x01", "unknown field 0"),
        (b"\x62\x00", "unknown field 12"),
        (b"\x5a\x00", "Point with a map"),
        (b"\x32\x05" + b"\0" * 5, "no numbers of 4"),
        (b"\x3a\x02\x01\x80", "does not end"),
        (b"\x3a\x0c" + b"\x80" * 11 + b"\x01", "does not end"),
        (b"\x4a\x0a\x4a\x08\x4a\x06\x4a\x04\x4a\x02\x4a\x00", "over 5 messages in one another"),
        (b"\x28\x01" * 101, "over 100 fields"),
        (b"\x2a\x65" + b"\x01" * 101, "over 100 fields"),
    ],
)
def test_what_readers_would_pass_over_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(data)
