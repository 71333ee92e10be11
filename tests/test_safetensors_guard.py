"""The check of safetensors files beside the library's own reading of the same bytes."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, deserialize
from safetensors.numpy import save

from convcraft.deploy.safetensors_guard import BITS, check_safetensors
from convcraft.errors import UserError

SHIPPED = Path(__file__).resolve().parents[1] / "src" / "convcraft" / "models" / "shipped"


def test_what_the_library_writes_is_accepted() -> None:
    tensors = {
        "b": np.zeros((2, 3), np.float32),
        "a": np.zeros((), np.int64),
        "none": np.zeros((0, 7), np.uint8),
        "half": np.zeros(5, np.float16),
    }
    found = check_safetensors(save(tensors, {"made": "here"}), "w.safetensors")
    assert found == {"a": ("I64", ()), "b": ("F32", (2, 3)), "half": ("F16", (5,)), "none": ("U8", (0, 7))}
    assert check_safetensors(save({}), "w.safetensors") == {}


@pytest.mark.parametrize("name", ["mnist-lenet5", "mnist-resnet20"])
def test_shipped_weights_are_accepted(name: str) -> None:
    data = (SHIPPED / f"{name}.safetensors").read_bytes()
    assert check_safetensors(data, name).keys() == {tensor for tensor, _ in deserialize(data)}


@pytest.mark.parametrize("dtype", sorted(BITS))
def test_sizes_of_types_are_the_library_s(dtype: str) -> None:
    def of_bytes(num_bytes: int) -> bytes:
        header = json.dumps({"x": {"dtype": dtype, "shape": [8], "data_offsets": [0, num_bytes]}}).encode()
        return struct.pack("<Q", len(header)) + header + bytes(num_bytes)

    assert deserialize(of_bytes(BITS[dtype]))
    assert check_safetensors(of_bytes(BITS[dtype]), "w") == {"x": (dtype, (8,))}
    with pytest.raises(UserError, match="bytes"):
        check_safetensors(of_bytes(BITS[dtype] + 1), "w")


CLEAN = save({"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.zeros(2, np.float32)}, {"a": "b"})


@settings(max_examples=400, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, len(CLEAN) - 1), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, len(CLEAN)) | st.just(len(CLEAN)),
    behind=st.binary(max_size=4),
)
def test_what_is_accepted_the_library_reads_in_the_same_way(changes: list, cut: int, behind: bytes) -> None:
    data = bytearray(CLEAN)
    for position, value in changes:
        data[position] = value
    mutant = bytes(data[:cut]) + behind
    try:
        found = check_safetensors(mutant, "w")
    except UserError:
        return
    try:
        read = {name: (tensor["dtype"], tuple(tensor["shape"])) for name, tensor in deserialize(mutant)}
    except SafetensorError as error:  # it knows no other escapes in names; refusing more is its right
        assert "JSON" in str(error) or "UTF-8" in str(error)  # noqa: PT017
        return
    assert found == read
