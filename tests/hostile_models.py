"""Files that somebody wrote to harm whoever loads them: built here, and handed to the guard that a bundle would use.

Each builder takes a folder to work in and the canary, a file that the attack would write, and returns the call that
must refuse. Control: `test_the_attacks_work_on_those_who_trust` sees that attacks of this kind do bite elsewhere.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save

from convcraft.deploy.archive import read_files
from convcraft.deploy.onnx_guard import check_onnx
from convcraft.deploy.openvino_guard import check_openvino
from convcraft.deploy.safetensors_guard import check_safetensors

Call = Callable[[], object]
Builder = Callable[[Path, Path], Call]
HOSTILE: dict[str, Builder] = {}


def of_bytes(name: str, check: Callable[[bytes, str], object], build: Callable[[], bytes]) -> None:
    """Register a file that needs neither folder nor canary."""
    HOSTILE[name] = lambda folder, canary: partial(check, build(), name)


# --- pickles under other names ---


class Payload:
    """What a pickle of it does when it is read: write the canary."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return Path.write_text, (self.canary, "you have been had")


def pickled(canary: Path, protocol: int = 4) -> bytes:
    return pickle.dumps({"state_dict": Payload(canary)}, protocol)


def torch_zip(canary: Path) -> bytes:
    """As torch.save lays it out: a zip around a pickle."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", pickled(canary, 2))
        archive.writestr("model/byteorder", "little")
        archive.writestr("model/data/0", bytes(16))
        archive.writestr("model/version", "3\n")
    return packed.getvalue()


def openvino_alone(xml: bytes, file: str, weights: bytes = b"") -> None:
    check_openvino(xml, weights, file)


CHECKS: dict[str, Callable[[bytes, str], object]] = {
    "safetensors": check_safetensors,
    "onnx": check_onnx,
    "openvino": openvino_alone,
}
for kind, check in CHECKS.items():
    HOSTILE[f"pickle as {kind}"] = lambda folder, canary, check=check: partial(check, pickled(canary), "model")
    HOSTILE[f"text pickle as {kind}"] = lambda folder, canary, check=check: partial(check, pickled(canary, 0), "model")
    HOSTILE[f"torch zip as {kind}"] = lambda folder, canary, check=check: partial(check, torch_zip(canary), "model")
    of_bytes(f"nothing as {kind}", check, lambda: b"")
    of_bytes(f"zeros as {kind}", check, lambda: bytes(1000))


def _written(folder: Path, data: bytes) -> Call:
    (folder / "bundle.zip").write_bytes(data)
    return partial(read_files, folder / "bundle.zip")


HOSTILE["pickle as bundle"] = lambda folder, canary: _written(folder, pickled(canary))
HOSTILE["torch zip as bundle"] = lambda folder, canary: _written(folder, torch_zip(canary))


# --- safetensors ---


def with_header(header: bytes | dict, num_bytes: int = 0, length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(num_bytes)


def tensor(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


SAFETENSORS: dict[str, bytes] = {
    "header of 1 TB": with_header({"a": tensor()}, 4, length=1 << 40),
    "header of 2^64 - 1": with_header({"a": tensor()}, 4, length=(1 << 64) - 1),
    "header one longer than the file": with_header({"a": tensor()}, 0, length=len(json.dumps({"a": tensor()})) + 1),
    "header of 50 MB": with_header(b"{" + b" " * 50_000_000 + b"}"),
    "seven bytes": b"\1\0\0\0\0\0\0",
    "no JSON": with_header(b"{not json}"),
    "a list": with_header(b'[{"a": 1}]'),
    "no UTF-8": with_header(b'{"\xff": {}}'),
    "deep JSON": with_header(b'{"a":' + b"[" * 100_000 + b"}"),
    "huge number": with_header(b'{"a":' + b"9" * 100_000 + b"}"),
    "NaN": with_header(b'{"a": NaN}'),
    "overlap": with_header({"a": tensor(), "b": tensor(offsets=(2, 6))}, 6),
    "two at one place": with_header({"a": tensor(), "b": tensor()}, 4),
    "hole": with_header({"a": tensor(), "b": tensor(offsets=(8, 12))}, 12),
    "hole at the start": with_header({"a": tensor(offsets=(4, 8))}, 8),
    "bytes behind": with_header({"a": tensor()}, 5),
    "bytes missing": with_header({"a": tensor()}, 3),
    "offsets turned round": with_header({"a": tensor(offsets=(4, 0))}, 4),
    "shape over 2^64": with_header({"a": tensor(shape=(4194305, 4194305, 211106198978564), offsets=(0, 16))}, 16),
    "shape lies": with_header({"a": tensor(shape=(1000, 1000))}, 4),
    "negative shape": with_header({"a": tensor(shape=(-1, -1))}, 4),
    "fractional shape": with_header({"a": tensor(shape=(1.0,))}, 4),
    "true as shape": with_header({"a": tensor(shape=(True,))}, 4),
    "shape of text": with_header({"a": tensor(shape=("1",))}, 4),
    "thousand dimensions": with_header({"a": tensor(shape=(1,) * 1000)}, 4),
    "unknown type": with_header({"a": tensor(dtype="OBJECT")}, 4),
    "list as type": with_header({"a": tensor(dtype=["F32"])}, 4),
    "one offset": with_header({"a": tensor(offsets=(4,))}, 4),
    "entry of its own": with_header({"a": {**tensor(), "code": "import os"}}, 4),
    "name twice": with_header(b'{"a":%s,"a":%s}' % ((json.dumps(tensor()).encode(),) * 2), 4),
    "type twice": with_header(b'{"a":{"dtype":"F32","dtype":"U8","shape":[1],"data_offsets":[0,4]}}', 4),
    "numbers as metadata": with_header({"__metadata__": {"a": 1}}),
    "cut in its numbers": save({})[:-1],
}
for name, data in SAFETENSORS.items():
    of_bytes(f"safetensors: {name}", check_safetensors, lambda data=data: data)


# --- ONNX ---


def onnx_package() -> Any:
    return pytest.importorskip("onnx", reason="needs the extra `export`")


def onnx_model(*nodes: Any, tensors: Any = (), change: Callable[[Any], Any] | None = None) -> bytes:
    """A network of one convolution, with nodes behind it and tensors beside it, after `change` has done its worst."""
    helper = onnx_package().helper
    weight = helper.make_tensor("weight", 1, [2, 1, 3, 3], [0.5] * 18)
    given = [helper.make_node("Conv", ["images", "weight"], ["maps"], name="conv"), *nodes]
    images = helper.make_tensor_value_info("images", 1, ["batch", 1, 8, 8])
    logits = helper.make_tensor_value_info(given[-1].output[0], 1, ["batch", 2, 6, 6])
    graph = helper.make_graph(given, "network", [images], [logits], [weight, *tensors])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    if change is not None:
        change(model)
    return model.SerializeToString()


def outside(location: str, name: str = "outside", **entries: str) -> Any:
    """A tensor whose numbers lie elsewhere."""
    made = onnx_package().TensorProto(name=name, data_type=1, dims=[4], data_location=1)
    for key, value in {"location": location, **entries}.items():
        made.external_data.add(key=key, value=value)
    return made


def node(operator: str, domain: str = "", **attributes: Any) -> Any:
    return onnx_package().helper.make_node(operator, ["maps"], ["out"], domain=domain, name="node", **attributes)


def branch(*tensors: Any, inner: Any = None) -> Any:
    """A network inside of a node: one that gives `y`."""
    helper = onnx_package().helper
    last = inner if inner is not None else helper.make_node("Identity", ["maps"], ["y"])
    output = helper.make_tensor_value_info(last.output[0], 1, None)
    return helper.make_graph([last], "branch", [], [output], list(tensors))


def branching(*tensors: Any, depth: int = 1) -> Any:
    """If in If in If; the tensors lie in the innermost."""
    inside = branch(*tensors)
    for _ in range(depth - 1):
        inside = branch(inner=node("If", then_branch=inside, else_branch=branch()))
    return node("If", then_branch=inside, else_branch=branch())


def function(*nodes: Any, domain: str = "pkg") -> Any:
    helper = onnx_package().helper
    return helper.make_function(domain, "f", ["maps"], ["out"], list(nodes), [helper.make_opsetid("", 20)])


def with_tensor(**changes: Any) -> bytes:
    """A clean network with a tensor beside it that is not what it says."""
    made = onnx_package().TensorProto(**{"name": "extra", "data_type": 1, **changes})
    return onnx_model(tensors=[made])


def second_value(model: Any) -> None:
    """A sound tensor in an attribute that says it is a whole number."""
    model.graph.node[1].attribute[0].t.CopyFrom(onnx_package().helper.make_tensor("x", 1, [1], [1.0]))


def two_sizes() -> bytes:
    """batch = 1 to those who take the first of two, "huge" to those who take the last."""
    size = field(1, 2, field(1, 0, b"\1") + field(2, 2, b"huge"))
    images = field(1, 2, b"x") + field(2, 2, field(1, 2, field(1, 0, b"\1") + field(2, 2, size)))
    return field(1, 0, b"\x0a") + field(7, 2, field(1, 2, field(4, 2, b"Relu")) + field(11, 2, images))


def sparse() -> Any:
    """Sixteen bytes that a runtime would unpack to four terabytes."""
    helper = onnx_package().helper
    values = helper.make_tensor("values", 1, [1], [1.0])
    return helper.make_sparse_tensor(values, helper.make_tensor("indices", 7, [1], [0]), [1_000_000, 1_000_000])


def at_model(**changes: Any) -> bytes:
    def change(model: Any) -> None:
        for field, value in changes.items():
            getattr(model, field).extend([value])

    return onnx_model(change=change)


def at_graph(field: str, value: Any) -> bytes:
    return onnx_model(change=lambda model: getattr(model.graph, field).extend([value]))


def field(number: int, wire_type: int, content: bytes) -> bytes:
    length = b"" if wire_type != 2 else _varint(len(content))
    return _varint(number << 3 | wire_type) + length + content


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def ort_polyglot() -> bytes:
    """Sound as ONNX, but ONNX Runtime looks for `ORTM` at byte 4 first, and reads its own format."""
    name = field(2, 2, b"--ORTM" + b"-" * 10)
    assert name[4:8] == b"ORTM"
    return name + onnx_model()


def location_by_overflow() -> bytes:
    """data_location = 2^32 + 1: a reader that keeps 32 bits sees EXTERNAL."""
    made = field(1, 0, b"\1") + field(2, 0, b"\1") + field(9, 2, bytes(4)) + field(14, 0, _varint((1 << 32) + 1))
    return field(1, 0, b"\x0a") + field(7, 2, field(1, 2, field(4, 2, b"Relu")) + field(5, 2, made))


def nested(depth: int) -> bytes:
    """Graphs in attributes in nodes in graphs, closed by hand: the package itself gives up on them."""
    graph = b""
    for _ in range(depth):
        graph = field(1, 2, field(4, 2, b"If") + field(5, 2, field(20, 0, b"\5") + field(6, 2, graph)))
    return field(1, 0, b"\x0a") + field(7, 2, graph)


def many_nodes() -> bytes:
    relu = field(1, 2, field(4, 2, b"Relu"))
    return field(1, 0, b"\x0a") + field(7, 2, relu * 100_000)


ONNX: dict[str, Callable[[], bytes]] = {
    "external data in ..": lambda: onnx_model(tensors=[outside("../../../../etc/passwd")]),
    "external data at an absolute path": lambda: onnx_model(tensors=[outside("/etc/passwd")]),
    "external data beside the file": lambda: onnx_model(tensors=[outside("weights.bin", offset="0", length="16")]),
    "external data on a share": lambda: onnx_model(tensors=[outside("\\\\attacker\\share\\x")]),
    "external data by URL": lambda: onnx_model(tensors=[outside("http://attacker.example/x")]),
    "external data at an address in memory": lambda: onnx_model(
        tensors=[outside("*/_ORT_MEM_ADDR_/*", offset="4096", length="16")]
    ),
    "external data without a place": lambda: with_tensor(dims=[1], raw_data=bytes(4), data_location=1),
    "external data without its mark": lambda: onnx_model(
        tensors=[outside("../x")], change=lambda model: model.graph.initializer[1].ClearField("data_location")
    ),
    "external data by overflow": location_by_overflow,
    "external data in a Constant": lambda: onnx_model(
        onnx_package().helper.make_node("Constant", [], ["out"], value=outside("../x"))
    ),
    "external data in a list of tensors": lambda: onnx_model(node("Relu", tensors=[outside("../x")])),
    "external data in a branch": lambda: onnx_model(branching(outside("../x"))),
    "external data three branches deep": lambda: onnx_model(branching(outside("../x"), depth=3)),
    "external data in a function": lambda: at_model(
        functions=function(onnx_package().helper.make_node("Constant", [], ["out"], value=outside("../x")))
    ),
    "external data in training": lambda: at_model(
        training_info=onnx_package().TrainingInfoProto(algorithm=branch(outside("../x")))
    ),
    "external data in a sparse tensor": lambda: at_graph(
        "sparse_initializer", onnx_package().SparseTensorProto(values=outside("../x"), dims=[4])
    ),
    "sparse tensor of 4 TB": lambda: at_graph("sparse_initializer", sparse()),
    "sparse tensor of 4 TB in an attribute": lambda: onnx_model(node("Constant", sparse_value=sparse())),
    "operator of a library": lambda: onnx_model(node("Open", domain="com.attacker")),
    "operator of a library in a branch": lambda: onnx_model(
        node("If", then_branch=branch(inner=node("Open", domain="com.attacker")), else_branch=branch())
    ),
    "operator that opens a file": lambda: onnx_model(
        node("EPContext", domain="com.microsoft", ep_cache_context="../../x.bin", embed_mode=0)
    ),
    "operator that runs Python": lambda: onnx_model(node("PyOp", domain="com.microsoft", module="os")),
    "operator with a variant": lambda: onnx_model(node("Relu", overload="other")),
    "function": lambda: at_model(functions=function(node("Relu"))),
    "function in place of Relu": lambda: at_model(functions=function(node("Relu"), domain="")),
    "loop": lambda: onnx_model(node("Loop", body=branch())),
    "loop without its body": lambda: onnx_model(node("Loop")),
    "loop in a branch": lambda: onnx_model(
        node("If", then_branch=branch(inner=node("Loop", body=branch())), else_branch=branch())
    ),
    "scan": lambda: onnx_model(node("Scan", body=branch(), num_scan_inputs=1)),
    "network inside of Relu": lambda: onnx_model(node("Relu", body=branch())),
    "networks inside of If": lambda: onnx_model(node("If", then_branch=[branch(outside("../x"))])),
    "attribute of two kinds": lambda: onnx_model(node("Constant", value_int=1), change=second_value),
    "attribute of a function": lambda: onnx_model(
        node("Relu", value=1), change=lambda model: setattr(model.graph.node[1].attribute[0], "ref_attr_name", "x")
    ),
    "raw numbers missing": lambda: with_tensor(dims=[1000, 1000], raw_data=bytes(4)),
    "raw numbers too many": lambda: with_tensor(dims=[1], raw_data=bytes(8)),
    "no numbers": lambda: with_tensor(dims=[1 << 30]),
    "numbers missing": lambda: with_tensor(dims=[1000], float_data=[1.0]),
    "numbers in two places": lambda: with_tensor(dims=[1], raw_data=bytes(4), float_data=[1.0]),
    "numbers in the wrong place": lambda: with_tensor(dims=[1], int64_data=[1]),
    "negative size": lambda: with_tensor(dims=[-1, -1], raw_data=bytes(4)),
    "size over 2^64": lambda: with_tensor(dims=[1 << 32, 1 << 32], raw_data=b""),
    "size over 2^64 beside 0": lambda: with_tensor(dims=[1 << 30, 1 << 30, 1 << 30, 0]),
    "thousand dimensions": lambda: with_tensor(dims=[1] * 1000, raw_data=bytes(4)),
    "text": lambda: with_tensor(dims=[1], data_type=8, string_data=[b"rm -rf"]),
    "unknown type": lambda: with_tensor(dims=[1], data_type=99, raw_data=bytes(4)),
    "tensor twice": lambda: onnx_model(tensors=[onnx_package().helper.make_tensor("weight", 1, [1], [1.0])]),
    "segment": lambda: with_tensor(dims=[1], raw_data=bytes(4), segment={"begin": 0, "end": 1 << 40}),
    "input that is a sequence": lambda: at_graph(
        "input", onnx_package().helper.make_tensor_sequence_value_info("more", 1, None)
    ),
    "input of negative size": lambda: at_graph("input", onnx_package().helper.make_tensor_value_info("more", 1, [-5])),
    "input of no type": lambda: at_graph("input", onnx_package().ValueInfoProto(name="more")),
    "size that is a number and a name": two_sizes,
    "settings for the session": lambda: at_model(
        metadata_props=onnx_package().StringStringEntryProto(
            key="ort_config", value='{"session_options": {"enable_profiling": 1}}'
        )
    ),
    "domain imported twice": lambda: at_model(opset_import=onnx_package().helper.make_opsetid("", 9)),
    "ONNX Runtime's own format": lambda: b"\x18\0\0\0ORTM" + bytes(100),
    "both formats at once": ort_polyglot,
    "two graphs": lambda: onnx_model() + field(7, 2, field(5, 2, outside("../x").SerializeToString())),
    "unknown field": lambda: onnx_model() + field(99, 2, b"x"),
    "group": lambda: onnx_model() + b"\x3b\x3c",
    "bytes behind": lambda: onnx_model() + bytes(8),
    "cut": lambda: onnx_model()[:-3],
    "no graph": lambda: field(1, 0, b"\x0a"),
    "ten thousand graphs in one another": lambda: nested(10_000),
    "hundred thousand operators": many_nodes,
    "million fields": lambda: b"\x72\0" * 1_000_000,
    "length of 2^64": lambda: b"\x3a" + b"\xff" * 9 + b"\1",
}
for name, build in ONNX.items():
    of_bytes(f"onnx: {name}", check_onnx, build)


# --- zip files ---


def zipped(*files: tuple[str, bytes], method: int = zipfile.ZIP_STORED, mode: int = 0, system: int = 3) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, content in files:
            info = zipfile.ZipInfo(name)
            info.filename, info.create_system, info.external_attr = name, system, mode << 16
            info.compress_type = method
            archive.writestr(info, content)
    return packed.getvalue()


PLAIN = zipped(("bundle.json", b"{}"), ("model.onnx", b"z" * 100))


def patched(data: bytes, at: bytes, offset: int, layout: str, value: int) -> bytes:
    """The zip with one number of its first header that begins with `at` replaced."""
    out = bytearray(data)
    struct.pack_into(layout, out, data.index(at) + offset, value)
    return bytes(out)


LOCAL, CENTRAL, END = b"PK\3\4", b"PK\1\2", b"PK\5\6"


def overlapping() -> bytes:
    """Two names for one file's bytes, as in bombs that are not recursive (Fifield, 2019)."""
    data = zipped(("a", b"x" * 100), ("b", b"x" * 100))
    second = data.index(CENTRAL, data.index(CENTRAL) + 1)
    return data[: second + 42] + struct.pack("<I", 0) + data[second + 46 :]


def two_lists() -> bytes:
    """A zip behind a zip: readers that search from the front and from the back see other files."""
    return zipped(("model.onnx", b"good")) + zipped(("model.onnx", b"evil"))


def renamed_inside() -> bytes:
    """The list says bundle.json, the file's own header says something else."""
    return PLAIN.replace(b"bundle.json", b"../../evil!", 1)


def bomb() -> bytes:
    return zipped(("model.onnx", bytes(200 << 20)), method=zipfile.ZIP_DEFLATED)


def of_size(num_bytes: int) -> bytes:
    """A packed file of 5,000 bytes whose headers both say another size."""
    data = zipped(("a", bytes(5000)), method=zipfile.ZIP_DEFLATED)
    for at, offset in ((LOCAL, 22), (CENTRAL, 24)):
        data = patched(data, at, offset, "<I", num_bytes)
    return data


def declared(num_bytes: int) -> bytes:
    """As `of_size`, and the checksum is that of the part that is declared."""
    data = of_size(num_bytes)
    for at, offset in ((LOCAL, 14), (CENTRAL, 16)):
        data = patched(data, at, offset, "<I", zlib.crc32(bytes(num_bytes)))
    return data


def with_hole() -> bytes:
    """Four bytes between two files that no list names; all places behind them are right."""
    data = PLAIN.replace(b"{}PK\3\4", b"{}----PK\3\4")
    begin = data.index(CENTRAL)
    second = data.index(CENTRAL, begin + 1)
    (header,) = struct.unpack_from("<I", data, second + 42)
    data = data[: second + 42] + struct.pack("<I", header + 4) + data[second + 46 :]
    return patched(data, END, 16, "<I", begin)


ZIPS: dict[str, Callable[[], bytes]] = {
    "name in ..": lambda: zipped(("../canary", b"x")),
    "name far in ..": lambda: zipped(("probes/../../../canary", b"x")),
    "absolute name": lambda: zipped(("/tmp/canary", b"x")),
    "drive": lambda: zipped(("C:canary", b"x")),
    "backslashes": lambda: zipped(("..\\..\\canary", b"x")),
    "two folders deep": lambda: zipped(("a/b/c", b"x")),
    "folder in ..": lambda: zipped(("../", b"")),
    "folder in a folder": lambda: zipped(("a/b/", b"")),
    "folder with bytes": lambda: zipped(("a/", b"x")),
    "no name": lambda: zipped(("", b"x")),
    "zero byte in a name": lambda: PLAIN.replace(b"bundle.json", b"bundle\0json"),
    "line feed in a name": lambda: zipped(("a\n", b"x")),
    "letters that look alike": lambda: zipped(("mоdel.onnx", b"x")),  # a Cyrillic о
    "long name": lambda: zipped(("a" * 5000, b"x")),
    "name twice": lambda: zipped(("a.bin", b"x"), ("b.bin", b"y")).replace(b"b.bin", b"a.bin"),
    "name in capitals as well": lambda: zipped(("model.onnx", b"x"), ("MODEL.onnx", b"y")),
    "file that is a folder": lambda: zipped(("probes", b"x"), ("probes/0.png", b"y")),
    "name with a final dot": lambda: zipped(("model.onnx.", b"x")),
    "link": lambda: zipped(("model.onnx", b"/etc/passwd"), mode=0o120777),
    "link by another system": lambda: zipped(("model.onnx", b"/etc/passwd"), mode=0o120777, system=0),
    "pipe": lambda: zipped(("model.onnx", b""), mode=0o010644),
    "device": lambda: zipped(("model.onnx", b""), mode=0o020644),
    "encrypted": lambda: patched(patched(PLAIN, LOCAL, 6, "<H", 1), CENTRAL, 8, "<H", 1),
    "encrypted by its own header alone": lambda: patched(PLAIN, LOCAL, 6, "<H", 1),
    "bzip2": lambda: zipped(("a", b"x"), method=zipfile.ZIP_BZIP2),
    "lzma": lambda: zipped(("a", b"x"), method=zipfile.ZIP_LZMA),
    "bomb": bomb,
    "size smaller than it unpacks to": lambda: declared(100),
    "size larger than it unpacks to": lambda: declared(6000),
    "size of 4 GB in a few bytes": lambda: of_size(0xFFFFFFFE),
    "wrong checksum": lambda: PLAIN.replace(b"z" * 100, b"y" * 100),
    "other name in its own header": renamed_inside,
    "overlap": overlapping,
    "two lists": two_lists,
    "program before it": lambda: b"#!/bin/sh\ntouch canary\n" + PLAIN,
    "bytes behind it": lambda: PLAIN + b"x",
    "comment": lambda: patched(PLAIN, END, 20, "<H", 4) + b"PK\5\6",
    "hole between files": with_hole,
    "cut": lambda: PLAIN[:-10],
    "no list": lambda: PLAIN[: PLAIN.index(CENTRAL)],
    "list that is longer than it says": lambda: patched(PLAIN, END, 10, "<H", 1),
    "format of the future": lambda: patched(PLAIN, CENTRAL, 6, "<H", 64),
    "sixty thousand files": lambda: patched(patched(PLAIN, END, 10, "<H", 60_000), END, 8, "<H", 60_000),
    "two hundred and one files": lambda: zipped(*((str(number), b"") for number in range(201))),
    "empty zip": lambda: zipped(),
}


def _zip_case(build: Callable[[], bytes]) -> Builder:
    return lambda folder, canary: _written(folder, build())


for name, build in ZIPS.items():
    HOSTILE[f"zip: {name}"] = _zip_case(build)


# --- folders ---


def _folder(fill: Callable[[Path], object]) -> Builder:
    def build(folder: Path, canary: Path) -> Call:
        bundle = folder / "bundle"
        bundle.mkdir()
        (bundle / "bundle.json").write_bytes(b"{}")
        fill(bundle)
        return partial(read_files, bundle)

    return build


def _listen(bundle: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(bundle)  # names of sockets are short
        try:
            listener.bind("model.onnx")
        finally:
            os.chdir(here)


def _linked_folder(bundle: Path) -> None:
    (bundle.parent / "elsewhere").mkdir()
    (bundle.parent / "elsewhere" / "secret").write_text("x")
    (bundle / "probes").symlink_to(bundle.parent / "elsewhere")


def _sparse(path: Path, num_bytes: int) -> None:
    path.touch()
    os.truncate(path, num_bytes)


FOLDERS: dict[str, Callable[[Path], object]] = {
    "link": lambda bundle: (bundle / "model.onnx").symlink_to("/etc/passwd"),
    "link to itself": lambda bundle: (bundle / "model.onnx").symlink_to("model.onnx"),
    "link to an endless device": lambda bundle: (bundle / "model.onnx").symlink_to("/dev/zero"),
    "linked folder": _linked_folder,
    "link for the weights of an ONNX file": lambda bundle: (bundle / "weights.bin").symlink_to("../../../etc/passwd"),
    "pipe": lambda bundle: os.mkfifo(bundle / "model.onnx"),
    "pipe in a folder": lambda bundle: ((bundle / "probes").mkdir(), os.mkfifo(bundle / "probes" / "0.png")),
    "socket": _listen,
    "two folders deep": lambda bundle: (bundle / "a" / "b").mkdir(parents=True),
    "strange name": lambda bundle: (bundle / "a\nb").write_bytes(b""),
    "name in capitals as well": lambda bundle: (bundle / "BUNDLE.json").write_bytes(b""),
    "two hundred and one files": lambda bundle: [(bundle / str(number)).touch() for number in range(201)],
    "file of 1 TB": lambda bundle: _sparse(bundle / "model.onnx", 1 << 40),
}
for name, fill in FOLDERS.items():
    HOSTILE[f"folder: {name}"] = _folder(fill)


def _pipe_as_bundle(folder: Path, canary: Path) -> Call:
    os.mkfifo(folder / "bundle.zip")
    return partial(read_files, folder / "bundle.zip")


HOSTILE["folder: pipe in its place"] = _pipe_as_bundle


# --- OpenVINO ---

IR = b"""<?xml version="1.0"?>
<net name="small" version="11">
	<layers>
		<layer id="0" name="images" type="Parameter" version="opset1">
			<data shape="?,4" element_type="f32" />
			<output><port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port></output>
		</layer>
		<layer id="1" name="bias" type="Const" version="opset1">
			<data element_type="f32" shape="1, 4" offset="0" size="16" />
			<output><port id="0" precision="FP32"><dim>1</dim><dim>4</dim></port></output>
		</layer>
		<layer id="2" name="add" type="Add" version="opset1">
			<data auto_broadcast="numpy" />
			<input><port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port>
			<port id="1" precision="FP32"><dim>1</dim><dim>4</dim></port></input>
			<output><port id="2" precision="FP32"><dim>-1</dim><dim>4</dim></port></output>
		</layer>
		<layer id="3" name="logits" type="Result" version="opset1">
			<input><port id="0" precision="FP32"><dim>-1</dim><dim>4</dim></port></input>
		</layer>
	</layers>
	<edges>
		<edge from-layer="0" from-port="0" to-layer="2" to-port="0" />
		<edge from-layer="1" from-port="0" to-layer="2" to-port="1" />
		<edge from-layer="2" from-port="2" to-layer="3" to-port="0" />
	</edges>
	<rt_info />
</net>
"""
IR_WEIGHTS = bytes(16)
IR_CONSTANT = b'<data element_type="f32" shape="1, 4" offset="0" size="16" />'


def ir_with_constant(**attributes: str) -> bytes:
    written = " ".join(f'{name}="{value}"' for name, value in attributes.items()).encode()
    return IR.replace(IR_CONSTANT, b"<data " + written + b" />")


def changed(before: bytes, after: bytes) -> bytes:
    assert before in IR
    return IR.replace(before, after)


def constant(**changes: str) -> bytes:
    return ir_with_constant(**{"element_type": "f32", "shape": "1, 4", "offset": "0", "size": "16", **changes})


def laughs() -> bytes:
    """A billion laughs: ten entities of ten entities of ten ..."""
    entities = ['<!ENTITY a0 "ha">']
    entities += [f'<!ENTITY a{level} "{f"&a{level - 1};" * 10}">' for level in range(1, 10)]
    declared = f"<!DOCTYPE net [{''.join(entities)}]>\n<net".encode()
    return changed(b"<net", declared).replace(b'name="small"', b'name="&a9;"')


def of_a_file() -> bytes:
    declared = b'<!DOCTYPE net [<!ENTITY x SYSTEM "file:///etc/passwd">]>\n<net'
    return changed(b"<net", declared).replace(b'name="small"', b'name="&x;"')


OPENVINO: dict[str, Callable[[], bytes]] = {
    "billion laughs": laughs,
    "entity of a file": of_a_file,
    "entity in UTF-16": lambda: of_a_file().decode().encode("utf-16"),
    "entity in UTF-16 without its mark": lambda: of_a_file().decode().encode("utf-16-be"),
    "entity in UTF-7": lambda: changed(b'"1.0"?>', b'"1.0" encoding="UTF-7"?>').replace(
        b"<net", b"+ADwAIQ-DOCTYPE <net"
    ),
    "document type of a URL": lambda: changed(b"<net", b'<!DOCTYPE net SYSTEM "http://attacker.example/x.dtd"><net'),
    "network in a comment": lambda: changed(b"<layers>", b"<!-- <layers></layers> --><layers>"),
    "CDATA": lambda: changed(b"<rt_info />", b"<rt_info><![CDATA[<layers/>]]></rt_info>"),
    "style sheet": lambda: changed(b"<net", b'<?xml-stylesheet href="http://attacker.example/x"?><net'),
    "Latin-1": lambda: changed(b'"1.0"?>', b'"1.0" encoding="latin-1"?>'),
    "zero byte": lambda: IR + b"\0",
    "no UTF-8": lambda: changed(b"small", b"sm\xffll"),
    "elements without end": lambda: b"<net version='11'>" + b"<a>" * 1_000_000,
    "a million elements": lambda: b"<net version='11'>" + b"<a/>" * 1_000_000 + b"</net>",
    "many attributes": lambda: b"<net " + b" ".join(b"a%d=''" % i for i in range(300_000)) + b"/>",
    "hundred megabytes": lambda: IR + b" " * (100 << 20),
    "cut": lambda: IR[:-20],
    "other root": lambda: b"<network version='11'/>",
    "version 7": lambda: changed(b'version="11"', b'version="7"'),
    "no layers": lambda: b"<net version='11'><layers/><edges/></net>",
    "two lists of layers": lambda: changed(b"<edges>", b"<layers></layers><edges>"),
    "namespace": lambda: changed(b"<net ", b'<net xmlns="http://x" '),
    "hundred thousand layers": lambda: b"<net version='11'><layers>" + b"<layer/>" * 100_000 + b"</layers></net>",
    "offset behind the end": lambda: constant(offset="4"),
    "offset far behind the end": lambda: constant(offset="999999999999"),
    "offset that overflows": lambda: constant(offset=str((1 << 64) - 8)),
    "negative offset": lambda: constant(offset="-16"),
    "offset in hexadecimal": lambda: constant(offset="0x0"),
    "offset in other digits": lambda: constant(offset="٠"),
    "no offset": lambda: changed(b' offset="0"', b""),
    "shape lies": lambda: constant(shape="1000,1000"),
    "shape over 2^64": lambda: constant(shape="4294967296,4294967296,1", size="0"),
    "negative shape": lambda: constant(shape="-2,-2"),
    "million dimensions": lambda: constant(shape=",".join("1" * 1_000_000)),
    "number of a million digits": lambda: constant(shape="9" * 1_000_000),
    "bytes left over": lambda: constant(shape="1, 3"),
    "numbers in an attribute": lambda: constant(value="AAAA"),
    "constant in capitals": lambda: changed(b'type="Const"', b'type="CONSTANT"').replace(b'size="16"', b'size="1600"'),
    "text as numbers": lambda: constant(element_type="string"),
    "unknown type": lambda: constant(element_type="f31"),
    "constant twice": lambda: changed(IR_CONSTANT, IR_CONSTANT + IR_CONSTANT.replace(b"16", b"1600")),
    "input of text": lambda: changed(b'shape="?,4" element_type="f32"', b'shape="?,4" element_type="string"'),
    "operator of a library": lambda: changed(b'type="Add" version="opset1"', b'type="Add" version="extension"'),
    "operator without a set": lambda: changed(b'type="Add" version="opset1"', b'type="Add"'),
    "operator of OpenVINO's inside": lambda: changed(b'"Add" version="opset1"', b'"Add" version="ie_internal_opset"'),
    "loop": lambda: changed(b'type="Add"', b'type="Loop"'),
    "loop in small letters": lambda: changed(b'type="Add"', b'type="loop"'),
    "iterator": lambda: changed(b'type="Add"', b'type="TensorIterator"'),
    "choice": lambda: changed(b'type="Add"', b'type="If"'),
    "memory": lambda: changed(b'type="Add"', b'type="ReadValue"'),
    "network in a layer": lambda: changed(b'<data auto_broadcast="numpy" />', b"<body><layers/></body>"),
    "weights in a layer": lambda: changed(b'<data auto_broadcast="numpy" />', b'<blobs><x offset="99"/></blobs>'),
    "file name": lambda: changed(b'auto_broadcast="numpy"', b'path="../../etc/passwd"'),
    "file name on Windows": lambda: changed(b'auto_broadcast="numpy"', b'path="C:\\x.dll"'),
}
for name, build in OPENVINO.items():
    of_bytes(f"openvino: {name}", partial(openvino_alone, weights=IR_WEIGHTS), build)
