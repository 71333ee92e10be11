"""Sparse files: every bit comes back, they are smaller where that is possible, and hostile ones are refused."""

from __future__ import annotations

import json
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import Tensor

from convcraft.deploy.compress.sparse_storage import DTYPES, FORMAT, pack, unpack
from convcraft.errors import UserError


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def assert_same(tensors: dict[str, Tensor]) -> None:
    again = unpack(pack(tensors))
    assert list(again) == list(tensors)
    for name, tensor in tensors.items():
        assert (again[name].dtype, again[name].shape) == (tensor.dtype, tensor.shape)
        assert bits(again[name]) == bits(tensor), name


def described_in(content: bytes) -> list[dict[str, Any]]:
    (length,) = struct.unpack("<Q", content[:8])
    found: list[dict[str, Any]] = json.loads(json.loads(content[8 : 8 + length])["__metadata__"][FORMAT])["tensors"]
    return found


def stated(described: Any, version: int = 1) -> dict[str, str]:
    return {FORMAT: json.dumps({"version": version, "tensors": described})}


def sparse(*shape: int, zeros: float = 0.9, seed: int = 0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(*shape, generator=draw)
    values[torch.rand(*shape, generator=draw) < zeros] = 0
    return values


@given(
    dtype=st.sampled_from(sorted(DTYPES)),
    shape=st.lists(st.integers(0, 9), max_size=4),
    zeros=st.floats(0, 1),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=150, deadline=None)
def test_every_bit_comes_back(dtype: str, shape: list[int], zeros: float, seed: int) -> None:
    """Any bit pattern of any type: infinities, every NaN, denormals, -0.0."""
    draw = np.random.default_rng(seed)
    number = int(np.prod(shape, dtype=int))
    size = DTYPES[dtype].itemsize
    rows = draw.integers(0, 2 if dtype == "bool" else 256, (number, size), dtype=np.uint8)
    rows[draw.random(number) < zeros] = 0
    tensor = torch.from_numpy(rows.reshape(-1)).view(DTYPES[dtype]).reshape(shape)
    assert_same({"layer.weight": tensor, "another": torch.arange(3)})


def test_minus_zero_and_the_payload_of_nan_survive() -> None:
    patterns = [0x80000000, 0x7FC00001, 0xFFC0DEAD, 0x7F800001, 0x00000001, 0x7F800000]
    values = torch.zeros(500)
    values[: len(patterns)] = torch.from_numpy(np.array(patterns, np.uint32).view(np.float32))
    assert_same({"weight": values})
    again = unpack(pack({"weight": values}))["weight"]
    assert again[:6].view(torch.int32).tolist() == values[:6].view(torch.int32).tolist()
    assert "mask" in described_in(pack({"weight": values}))[0]


def test_other_layouts_and_names() -> None:
    whole = sparse(4, 3, 5, 5)
    assert_same(
        {
            "channels_last": whole.to(memory_format=torch.channels_last),
            "a view": whole[::2, 1:],
            "0.dense": whole,
            "名": torch.tensor(7),
            "": torch.empty(0, 3),
        }
    )
    assert pack({}) == pack({})
    assert unpack(pack({})) == {}


def test_the_smaller_form_is_taken() -> None:
    dense, few = sparse(200, 200, zeros=0.0), sparse(200, 200, zeros=0.95)
    described = described_in(pack({"dense": dense, "few": few}))
    assert "dense" in described[0]
    assert "mask" in described[1]
    assert len(pack({"w": dense})) < 1.01 * dense.numel() * 4
    assert len(pack({"w": few})) < 0.09 * few.numel() * 4  # 5 % of the values and at most a bit each
    assert len(pack({"w": torch.zeros(1000, 1000)})) < 5000


def test_the_same_tensors_give_the_same_file() -> None:
    tensors = {"b": sparse(30, 30), "a": sparse(8)}
    assert pack(tensors) == pack({name: tensor.clone() for name, tensor in tensors.items()})


def test_a_sparse_file_is_a_safetensors_file() -> None:
    assert all(part.dtype == torch.uint8 for part in load(pack({"weight": sparse(50, 50)})).values())


def test_types_that_the_format_lacks_are_refused() -> None:
    with pytest.raises(UserError, match="complex64"):
        pack({"weight": torch.zeros(2, dtype=torch.complex64)})


# Hostile files ------------------------------------------------------------------------------------------------------


def changed(change: Callable[[list[dict[str, Any]], dict[str, Tensor]], None], tensor: Tensor | None = None) -> bytes:
    """A file of one sparse tensor whose description or parts were changed."""
    content = pack({"w": sparse(40, 40) if tensor is None else tensor})
    described, parts = described_in(content), load(content)
    change(described, parts)
    return save(parts, stated(described))


def set_field(name: str, value: Any) -> Callable[[list[dict[str, Any]], dict[str, Tensor]], None]:
    def change(described: list[dict[str, Any]], _parts: dict[str, Tensor]) -> None:
        described[0][name] = value

    return change


def set_part(name: str, part: Tensor) -> Callable[[list[dict[str, Any]], dict[str, Tensor]], None]:
    def change(_described: list[dict[str, Any]], parts: dict[str, Tensor]) -> None:
        parts[name] = part

    return change


def bomb(described: list[dict[str, Any]], parts: dict[str, Tensor]) -> None:
    """Some fifty kilobytes that inflate to 50 MB, where 6,400 bytes are expected."""
    packed = zlib.compress(bytes(50 << 20), 9)
    del parts["0.mask"], parts["0.values"], described[0]["mask"], described[0]["values"]
    described[0]["dense"] = {"deflated": True}
    parts["0.dense"] = torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def test_a_sound_file_passes_the_same_way() -> None:
    assert bits(unpack(changed(lambda *_: None))["w"]) == bits(sparse(40, 40))


@pytest.mark.parametrize(
    "change",
    [
        set_field("shape", [1 << 40, 1 << 40]),
        set_field("shape", [1 << 20, 1 << 20]),
        set_field("shape", [40, 41]),
        set_field("shape", [40, -40]),
        set_field("shape", [40, True]),
        set_field("shape", "40"),
        set_field("shape", [1] * 17),
        set_field("dtype", "float64"),
        set_field("dtype", "object"),
        set_field("dtype", ["float32"]),
        set_field("name", 3),
        set_field("mask", {"deflated": "yes"}),
        set_field("dense", {"deflated": False}),
        set_part("0.mask", torch.full((200,), 255, dtype=torch.uint8)),
        set_part("0.mask", torch.zeros(200)),
        set_part("0.values", torch.zeros(3, dtype=torch.uint8)),
        set_part("7.values", torch.zeros(3, dtype=torch.uint8)),
        lambda described, parts: described.append(described[0]),
        lambda described, parts: described.append(None),  # type: ignore[arg-type]
        lambda described, parts: parts.pop("0.values"),
        bomb,
    ],
)
def test_files_that_lie_are_refused_before_memory_is_asked_for(
    change: Callable[[list[dict[str, Any]], dict[str, Tensor]], None],
) -> None:
    content = changed(change)
    tracemalloc.start()
    try:
        with pytest.raises(UserError):
            unpack(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_limit_is_kept_to() -> None:
    content = pack({"w": torch.zeros(1000, 1000)})
    assert len(content) < 10_000
    with pytest.raises(UserError, match="4,000,000 bytes"):
        unpack(content, max_bytes=3_999_999)
    assert unpack(content, max_bytes=4_000_000)["w"].shape == (1000, 1000)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x04.",
        b"\xff" * 64,
        struct.pack("<Q", 1 << 60) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 4) + b"null",
        struct.pack("<Q", 20_000) + b"[" * 20_000,
        save({"w": torch.zeros(3)}),
        save({"w": torch.zeros(3)}, stated([], version=99)),
        save({"w": torch.zeros(3)}, stated({})),
        save({"w": torch.zeros(3)}, stated([])),
        save({"w": torch.zeros(3)}, {FORMAT: "[" * 5000}),
    ],
)
def test_other_files_are_refused(content: bytes) -> None:
    with pytest.raises(UserError, match="no sparse file"):
        unpack(content)


def test_a_cut_or_changed_file_never_gives_other_values_in_silence_about_its_size() -> None:
    content = pack({"w": sparse(40, 40)})
    for length in range(0, len(content), 37):
        with pytest.raises(UserError):
            unpack(content[:length])
