"""Bundles tell nothing of who made them and where."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from exported import made_of, small_network, source_of

from convcraft.config import ModelConfig
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats import aot_inductor, pt2
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.formats.form import Runtime
from convcraft.deploy.judges import source_outputs
from convcraft.deploy.privacy import Private, masked, of_this_machine, refuse_private
from convcraft.deploy.probes import drawing
from convcraft.errors import UserError

ANN = Private(("/home/ann/projects/venv", "/home/ann", "C:\\Users\\ann"), "ann", "/tmp")
GREY = Preprocess(height=28, width=28, channels=1, resize="pad", mean=(0.13,), std=(0.31,))


def zipped(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"from /home/ann/x.py",
        b'"/home/ann"',
        b"-I/home/ann/projects/venv/include",
        b"/tmp/torchinductor_ann/c/x.cpp",
        b"/tmp/a/pytest-of-ann/x",
        b"/Users/ann/x",
        b"\0\1/home/ann\0",
        rb"C:\Users\ann\x",
        rb'"C:\\Users\\ann\\x"',
        b"C:/Users/ann/x",
    ],
)
def test_paths_of_the_machine_are_found_and_masked(content: bytes) -> None:
    with pytest.raises(UserError, match=r"model\.onnx"):
        refuse_private({"model.onnx": content}, ANN)
    with pytest.raises(UserError, match=r"m\.zip/inner/deep"):
        refuse_private({"m.zip": zipped(inner=zipped(deep=content))}, ANN)
    clean = masked(content, ANN)
    assert len(clean) == len(content)
    assert b"ann" not in clean
    refuse_private({"model.onnx": clean}, ANN)


@pytest.mark.parametrize(
    "content",
    [
        b"ann/channels/ann",
        b"/layer1/ann/Conv",
        b"/home/annika/x",
        b"the annotation in /tmp/annotated",
        b"/usr/include/c++/12",
        b"/homeward/ann",
    ],
)
def test_other_text_is_none_of_it(content: bytes) -> None:
    refuse_private({"model.onnx": content}, ANN)
    assert masked(content, ANN) == content


def test_a_home_right_below_the_root_is_no_layer() -> None:
    root = Private(("/admin",), "admin", "/tmp")
    for content in (b"</admin>", b"block/admin/conv", b"/admins/x", b"admin"):
        refuse_private({"x": content}, root)
    for content in (b"-I/admin/.pyenv", b'"/admin/x"', b"/tmp/torchinductor_admin/x"):
        with pytest.raises(UserError):
            refuse_private({"x": content}, root)


def test_what_is_looked_for_here() -> None:
    private = of_this_machine()
    assert str(Path.home()) in private.folders
    assert not {"/", "/usr", "/usr/local", "/tmp"} & set(private.folders)
    with pytest.raises(UserError):
        refuse_private({"x": f"{Path.home()}/x".encode()})


@pytest.mark.parametrize("form", ["pt2", "onnx", "safetensors", "openvino"])
def test_formats_are_free_of_the_machine(form: str) -> None:
    pytest.importorskip({"onnx": "onnxscript", "openvino": "openvino"}.get(form, "torch"))
    made_by = ModelConfig(name="resnet20_cifar")
    network = ExportNetwork(small_network(made_by.name, 3, GREY), GREY, made_by=made_by)
    files = find_format(form).write(network, np.zeros((2, 1, 28, 28), np.float32), "float32")
    refuse_private(files)


def test_a_bundle_that_tells_of_the_machine_is_not_made() -> None:
    source = source_of(small_network("lenet5", 3, GREY), GREY, ("a", "b", "c"), made_by=ModelConfig(name="lenet5"))
    for told in ({"card": f"See {Path.home()}/notes.txt"}, {"about": {"data": f"{Path.home()}/photos"}}):
        with pytest.raises(UserError, match="of this machine"):
            made_of(dataclasses.replace(source, **told), "safetensors")


def test_a_program_runs_without_its_origin() -> None:
    network = ExportNetwork(small_network("lenet5", 3, GREY), GREY)
    files = pt2.write(network, np.zeros((1, 1, 28, 28), np.float32), "float32")
    with zipfile.ZipFile(io.BytesIO(files[pt2.FILE])) as archive:
        text = archive.read(next(name for name in archive.namelist() if name.endswith("model.json"))).decode()
    nodes = json.loads(text)["graph_module"]["graph"]["nodes"]
    assert nodes
    assert not any(node["metadata"].keys() & set(pt2.ORIGINS) for node in nodes)
    _same_answers(network, "pt2", files)


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, aot_inductor.COMPILERS)), reason="no C++ compiler")
def test_machine_code_is_free_of_the_machine() -> None:
    network = ExportNetwork(small_network("lenet5", 3, GREY), GREY)
    files = aot_inductor.write(network, np.zeros((1, 1, 28, 28), np.float32), "float32")
    refuse_private(files)
    with zipfile.ZipFile(io.BytesIO(files[pt2.FILE])) as archive:
        assert not [name for name in archive.namelist() if name.endswith(aot_inductor.SOURCES)]
    _same_answers(network, "aot-inductor", files)


def _same_answers(network: ExportNetwork, form: str, files: dict[str, bytes]) -> None:
    pixels = np.stack([GREY.pixels(drawing(seed, 60, 80)) for seed in range(3)])
    expected = source_outputs(network, pixels).logits
    found = find_format(form).open(files, "float32", Runtime())(network.inputs_of(pixels))
    np.testing.assert_allclose(found.logits, expected, atol=1e-4 * np.ptp(expected))
