"""What torch and ONNX Runtime write is accepted and described (hostile files: test_hostile_models)."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from convcraft.deploy.onnx_guard import MICROSOFT_OPERATORS, NUMBER_TYPES, check_onnx
from convcraft.errors import UserError
from convcraft.models.lenet import LeNet5

onnx = pytest.importorskip("onnx", reason="needs the extra `export`")
onnxruntime = pytest.importorskip("onnxruntime")


class Residual(nn.Module):
    """Convolutions with a detour, and a choice that depends on the image: torch.cond becomes If."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 4)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = torch.relu(self.stem(images))
        maps = maps + torch.nn.functional.hardswish(self.norm(self.body(maps)))
        means = torch.cond(maps.mean() > 100, lambda maps: maps * 0.5, lambda maps: maps + 1.0, (maps,))
        return self.head(means.mean((2, 3)))


def exported(network: nn.Module, size: int, *, optimise: bool) -> bytes:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 1, size, size),),
            dynamo=True,
            optimize=optimise,
            verbose=False,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    return program.model_proto.SerializeToString()


@pytest.fixture(scope="module")
def lenet() -> bytes:
    return exported(LeNet5(num_classes=10, in_channels=1, image_size=(32, 32)), 32, optimise=True)


def test_an_export_is_described(lenet: bytes) -> None:
    facts = check_onnx(lenet, "model.onnx")
    model = onnx.load_from_string(lenet)
    assert facts.ir_version == model.ir_version
    assert facts.opsets == {entry.domain: entry.version for entry in model.opset_import}
    assert facts.producer.startswith("pytorch ")
    assert [(value.name, value.dtype, value.shape) for value in facts.inputs] == [
        ("images", "float32", ("batch", 1, 32, 32))
    ]
    assert [(value.name, value.dtype, value.shape) for value in facts.outputs] == [("logits", "float32", ("batch", 10))]
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    assert (facts.num_initializers, facts.initializer_bytes) == (len(arrays), sum(array.nbytes for array in arrays))
    assert facts.num_nodes == len(model.graph.node)


@pytest.mark.parametrize("optimise", [True, False])
def test_torch_writes_no_functions_of_its_own(optimise: bool) -> None:
    """So they can be refused: its exporter inlines them with and without optimisation. Branches stay."""
    data = exported(Residual(), 12, optimise=optimise)
    model = onnx.load_from_string(data)
    assert not model.functions
    assert "If" in {node.op_type for node in model.graph.node}
    assert check_onnx(data, "model.onnx").num_nodes > len(model.graph.node)


class Images:
    """Calibration data as ONNX Runtime asks for it."""

    def __init__(self, size: int) -> None:
        generator = np.random.default_rng(0)
        self._left = iter([{"images": generator.random((1, 1, size, size), dtype=np.float32)} for _ in range(2)])

    def get_next(self) -> dict | None:
        return next(self._left, None)


def test_quantised_and_optimised_networks_are_accepted(tmp_path: Path, lenet: bytes) -> None:
    from onnxruntime.quantization import QuantFormat, quantize_dynamic, quantize_static

    def optimised(source: Path) -> Path:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(source.with_suffix(".optimised.onnx"))
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        return source.with_suffix(".optimised.onnx")

    plain, dynamic = tmp_path / "plain.onnx", tmp_path / "dynamic.onnx"
    plain.write_bytes(lenet)
    quantize_dynamic(plain, dynamic)
    written = [plain, dynamic]
    for style in (QuantFormat.QDQ, QuantFormat.QOperator):
        written.append(tmp_path / f"{style}.onnx")
        quantize_static(plain, written[-1], Images(32), quant_format=style, per_channel=True)
    used: set[str] = set()
    for path in [*written, *map(optimised, written)]:
        check_onnx(path.read_bytes(), path.name)
        used |= {node.op_type for node in onnx.load(path).graph.node if node.domain == "com.microsoft"}
    assert {"QGemm", "FusedConv"} <= used


def test_the_list_of_operators_names_none_that_does_not_exist() -> None:
    from onnxruntime.capi.onnxruntime_pybind11_state import get_all_operator_schema

    known = {schema.name for schema in get_all_operator_schema() if schema.domain == "com.microsoft"}
    assert known >= MICROSOFT_OPERATORS


@pytest.mark.parametrize("number", sorted(NUMBER_TYPES))
def test_sizes_of_types_are_onnx_s(number: int) -> None:
    """Five numbers of each type, as onnx stores them in both ways, and one number less."""
    helper = onnx.helper
    if number in (14, 15):
        values: list = [1 + 2j, 3, 4, 5, 6]
    else:
        values = [1, 0, 1, 0, 1]
    stored = helper.make_tensor("x", number, [5], values)
    raw = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(stored), "x")
    assert raw.HasField("raw_data")
    assert not stored.HasField("raw_data")
    for tensor in (stored, raw):
        assert check_onnx(_with_tensor(tensor), "m").initializer_bytes == len(raw.raw_data)
        del tensor.dims[:]
        tensor.dims.append(13)
        with pytest.raises(UserError, match="13 of"):
            check_onnx(_with_tensor(tensor), "m")


def _with_tensor(tensor: Any) -> bytes:
    helper = onnx.helper
    output = helper.make_tensor_value_info("y", tensor.data_type, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [output], [tensor])
    return helper.make_model(graph).SerializeToString()
