"""No hostile file reaches a runtime: each is refused in time, writes nothing, and opens no connection."""

from __future__ import annotations

import io
import pickle
import socket
import time
import zipfile
from pathlib import Path

import pytest
from hostile_models import (
    HOSTILE,
    IR,
    IR_WEIGHTS,
    ONNX,
    PLAIN,
    branching,
    location_by_overflow,
    of_a_file,
    onnx_model,
    ort_polyglot,
    pickled,
    two_lists,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from convcraft.deploy.archive import read_files
from convcraft.deploy.onnx_guard import check_onnx
from convcraft.deploy.openvino_guard import check_openvino
from convcraft.errors import UserError

SECONDS = 2.0  # of the processor, so that a busy machine does not count


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    canary = tmp_path / "canary"
    check = HOSTILE[name](tmp_path, canary)

    def no_socket(*_args: object, **_options: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket, "socket", no_socket)
    before = {path for path in tmp_path.rglob("*") if path.name != "canary"}
    started = time.process_time()
    with pytest.raises(UserError) as refused:
        check()
    assert time.process_time() - started < SECONDS
    assert "It was not loaded" in str(refused.value)
    assert len(str(refused.value)) < 1200
    assert set(tmp_path.rglob("*")) == before


def test_there_are_enough_of_them() -> None:
    assert len(HOSTILE) >= 200


# What they would do elsewhere, so that the refusals mean something.


def test_the_attacks_work_on_those_who_trust(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    pickle.loads(pickled(canary))  # noqa: S301
    assert canary.read_text() == "you have been had"


def test_some_mean_one_thing_to_a_reader_and_another_to_the_next() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    onnxruntime = pytest.importorskip("onnxruntime")
    assert onnx.load_from_string(location_by_overflow()).graph.initializer[0].data_location == onnx.TensorProto.EXTERNAL
    assert len(onnx.load_from_string(ONNX["two graphs"]()).graph.initializer) == 2  # both at once
    onnx.checker.check_model(onnx.load_from_string(ort_polyglot()))
    onnxruntime.InferenceSession(onnx_model(), providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="ORT"):
        onnxruntime.InferenceSession(ort_polyglot(), providers=["CPUExecutionProvider"])
    with zipfile.ZipFile(io.BytesIO(two_lists())) as archive:
        assert archive.read("model.onnx") == b"evil"
    assert two_lists().index(b"good") < two_lists().index(b"evil")


def test_a_clean_twin_of_each_kind_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "bundle.zip").write_bytes(PLAIN)
    assert read_files(tmp_path / "bundle.zip").keys() == {"bundle.json", "model.onnx"}
    check_openvino(IR, IR_WEIGHTS, "model.xml")
    assert b"ENTITY" in of_a_file()
    check_onnx(onnx_model(), "model.onnx")
    check_onnx(onnx_model(branching(depth=3)), "model.onnx")


# Any bytes at all: only UserError comes out, and what is accepted means to others what it means to the guard.


def mutated(data: bytes, changes: list[tuple[int, int]], cut: int, twice: tuple[int, int]) -> bytes:
    """Bytes replaced, the end cut, and a piece of the file put in once more."""
    out = bytearray(data)
    for position, value in changes:
        out[position % len(out)] = value
    begin, end = (place % len(out) for place in sorted(twice))
    return bytes(out[: len(out) - cut % len(out)] + out[begin:end])


CHANGES = st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=5)
CUT = st.just(0) | st.integers(0, 5000)
TWICE = st.just((0, 0)) | st.tuples(st.integers(0, 5000), st.integers(0, 5000))


@pytest.fixture(scope="module")
def clean_onnx() -> bytes:
    helper = pytest.importorskip("onnx", reason="needs the extra `export`").helper
    extra = [
        helper.make_tensor("a", 7, [2], [1, -5]),
        helper.make_tensor("b", 10, [2], [1, 2]),
        helper.make_tensor("c", 3, [4], b"1234", raw=True),
    ]
    return onnx_model(branching(helper.make_tensor("inside", 1, [1], [1.0])), tensors=extra)


@settings(max_examples=500, deadline=None)
@given(changes=CHANGES, cut=CUT, twice=TWICE)
def test_any_onnx_that_is_accepted_is_one_to_onnx_as_well(clean_onnx: bytes, changes: list, cut: int, twice) -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
    data = mutated(clean_onnx, changes, cut, twice)
    try:
        facts = check_onnx(data, "model.onnx")
    except UserError:
        return
    model = onnx.load_from_string(data)
    tensors = list(onnx.external_data_helper._get_all_tensors(model))
    assert not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in tensors)
    assert not model.functions
    assert facts.num_initializers >= len(model.graph.initializer)
    assert facts.metadata == {entry.key: entry.value for entry in model.metadata_props}


@settings(max_examples=300, deadline=None)
@given(changes=CHANGES, cut=CUT, twice=TWICE)
def test_any_zip_that_is_accepted_holds_for_others_what_it_holds_for_us(
    tmp_path_factory: pytest.TempPathFactory, changes: list, cut: int, twice: tuple
) -> None:
    data = mutated(PLAIN, changes, cut, twice)
    path = tmp_path_factory.getbasetemp() / "mutant.zip"
    path.write_bytes(data)
    try:
        files = read_files(path)
    except UserError:
        return
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files


@settings(max_examples=300, deadline=None)
@given(changes=CHANGES, cut=CUT, twice=TWICE)
def test_any_openvino_network_is_accepted_or_refused(changes: list, cut: int, twice: tuple) -> None:
    try:
        check_openvino(mutated(IR, changes, cut, twice), IR_WEIGHTS, "model.xml")
    except UserError as refused:
        assert "model.xml" in str(refused)  # noqa: PT017


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(UserError):
        check_onnx(data, "model.onnx")
    with pytest.raises(UserError):
        check_openvino(data, b"", "model.xml")
