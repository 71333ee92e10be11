"""ONNX in int8: QuantizeLinear and DequantizeLinear around the operators, which ONNX Runtime computes in 8 bits.

Weights have a scale per output channel, activations one per tensor (uint8 with a zero point). Their ranges are the
least and largest values seen: on ResNet-20 and MobileNetV2 neither entropy nor percentiles won clearly
(docs/bundle.md), and both take many times the memory. An output is quantised where the next operator asks for it and
not otherwise, so that logits stay float32.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats.form import BATCH_SIZE
from convcraft.deploy.formats.onnx_layers import LAYERS

SUM, JOINING = "Add", "Concat"


def activation_ranges(model: Any, input_name: str, images: NDArray[np.generic], method: str = "MinMax") -> Any:
    """Least and largest value of every activation over the images, as onnxruntime.quantization keeps them.

    Args:
        model: an onnx.ModelProto in float32. images: [N, ...] as it takes them.
        method: a name of onnxruntime's CalibrationMethod; Entropy and Percentile leave rare values out.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, create_calibrator

    class Batches(CalibrationDataReader):
        def __init__(self) -> None:
            self._starts = iter(range(0, len(images), BATCH_SIZE))

        def get_next(self) -> dict[str, NDArray[np.generic]] | None:
            start = next(self._starts, None)
            return None if start is None else {input_name: images[start : start + BATCH_SIZE]}

    with tempfile.TemporaryDirectory() as folder:
        file, watched = Path(folder) / "float32.onnx", Path(folder) / "watched.onnx"
        file.write_bytes(model.SerializeToString())
        calibrator = create_calibrator(
            file, _operators(), augmented_model_path=str(watched), calibrate_method=CalibrationMethod[method]
        )
        calibrator.collect_data(Batches())
        return calibrator.compute_data()


def quantised(model: Any, ranges: Any, keep: Collection[str] = ()) -> bytes:
    """The model in int8.

    Args:
        model: an onnx.ModelProto in float32. ranges: of `activation_ranges`. keep: layers that stay in float32.
    """
    from onnx.shape_inference import infer_shapes
    from onnxruntime.quantization import QuantType
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    operators = _operators()
    quantizer = QDQQuantizer(
        infer_shapes(copy.deepcopy(model)),
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QUInt8,
        tensors_range=ranges,
        nodes_to_quantize=[],  # all
        nodes_to_exclude=_kept(model, keep),
        op_types_to_quantize=operators,
        extra_options={"OpTypesToExcludeOutputQuantization": operators},
    )
    quantizer.quantize_model()
    return bytes(quantizer.model.model.SerializeToString())


def _kept(model: Any, keep: Collection[str]) -> list[str]:
    """Names of nodes: the layers, what is behind them up to the next sum, and what works for them alone, such as a
    concatenation before a classifier: in 8 bits these would round what was spared. What comes behind the sum has 8 bits
    again, or one layer would take a whole residual network with it."""
    nodes = list(model.graph.node)  # in the order in which they compute
    spared = {node.name for node in nodes if node.name in keep}
    whole: set[str] = set()
    for node in nodes:
        if node.name in spared or (node.op_type not in LAYERS and whole.intersection(node.input)):
            spared.add(node.name)
            if node.op_type != SUM:
                whole.update(node.output)
    users: dict[str, set[str]] = {}
    for node in reversed(nodes):
        used_by = set().union(*(users.get(output, set()) for output in node.output))
        if node.op_type not in LAYERS and used_by and used_by <= spared:
            spared.add(node.name)
        for name in node.input:
            users.setdefault(name, set()).add(node.name)
    return [node.name for node in nodes if node.name in spared]


def _operators() -> list[str]:
    """What is computed in 8 bits, in a fixed order, so that the same network gives the same bytes. A sum or a joining
    in float32 between two convolutions would make them slower than all in float32."""
    from onnxruntime.quantization.registry import QDQRegistry

    return sorted({*QDQRegistry, SUM, JOINING})
