"""Networks as OpenVINO itself writes them are accepted (hostile ones: test_hostile_models)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hostile_models import IR, IR_WEIGHTS, ir_with_constant
from torch import nn

from convcraft.deploy.openvino_guard import BITS, check_openvino
from convcraft.errors import UserError

openvino = pytest.importorskip("openvino", reason="needs the extra `export`")


@pytest.fixture(scope="module")
def network():
    """A small network of convolutions, depthwise as well."""
    import torch

    layers = (
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.Hardswish(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    torch.manual_seed(0)
    return openvino.convert_model(nn.Sequential(*layers).eval(), example_input=torch.zeros(2, 3, 16, 16))


def saved(model, folder: Path, *, half: bool) -> tuple[bytes, bytes]:
    openvino.save_model(model, folder / "model.xml", compress_to_fp16=half)
    return (folder / "model.xml").read_bytes(), (folder / "model.bin").read_bytes()


@pytest.mark.parametrize("half", [False, True])
def test_float_networks_are_accepted(tmp_path: Path, network, half: bool) -> None:
    xml, weights = saved(network, tmp_path, half=half)
    check_openvino(xml, weights, "model.xml")
    with pytest.raises(UserError, match="inside the"):
        check_openvino(xml, weights[:-1], "model.xml")


def test_int8_networks_are_accepted(tmp_path: Path, network) -> None:
    nncf = pytest.importorskip("nncf", reason="needs the extra `compress`")
    generator = np.random.default_rng(0)
    images = [generator.random((1, 3, 16, 16), dtype=np.float32) for _ in range(4)]
    quantised = nncf.quantize(network, nncf.Dataset(images), subset_size=4)
    xml, weights = saved(quantised, tmp_path, half=True)
    assert b"FakeQuantize" in xml
    assert b'element_type="i8"' in xml
    check_openvino(xml, weights, "model.xml")


def test_the_network_that_hostile_ones_are_made_of_is_sound() -> None:
    check_openvino(IR, IR_WEIGHTS, "model.xml")
    model = openvino.Core().read_model(IR, IR_WEIGHTS)
    assert [layer.get_type_name() for layer in model.get_ordered_ops()] == ["Parameter", "Constant", "Add", "Result"]


@pytest.mark.parametrize("element_type", sorted(BITS))
def test_sizes_of_types_are_openvino_s(element_type: str) -> None:
    num_bytes = -(-5 * BITS[element_type] // 8)
    xml = ir_with_constant(element_type=element_type, shape="5", offset="0", size=str(num_bytes))
    check_openvino(xml, bytes(num_bytes), "model.xml")
    with pytest.raises(UserError, match="bytes"):
        check_openvino(xml.replace(b'shape="5"', b'shape="13"'), bytes(num_bytes), "model.xml")
    too_small = ir_with_constant(element_type=element_type, shape="5", offset="0", size=str(num_bytes - 1))
    with pytest.raises(UserError, match="bytes"):
        check_openvino(too_small, bytes(num_bytes), "model.xml")
    type_of_openvino = openvino.Type.boolean if element_type == "boolean" else getattr(openvino.Type, element_type)
    assert type_of_openvino.bitwidth == BITS[element_type]


def test_bounded_sizes_are_no_file_names() -> None:
    check_openvino(IR.replace(b'shape="?,4"', b'shape="1..8,4"'), IR_WEIGHTS, "model.xml")
