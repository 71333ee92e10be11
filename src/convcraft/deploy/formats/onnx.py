"""ONNX, one file, any batch size; run by ONNX Runtime, which the base install has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats.form import FEATURES, LOGITS, Files, Format, Runtime, Session
from convcraft.deploy.onnx_guard import check_onnx
from convcraft.evaluation.outputs import Outputs

if TYPE_CHECKING:
    from convcraft.deploy.export_network import ExportNetwork

FILE = "model.onnx"
INPUT = "images"


def write(network: ExportNetwork, images: NDArray[np.generic], precision: str) -> dict[str, bytes]:
    """model.onnx. No stack traces of the exporting machine stay in it.

    Args:
        images: [N, ...] as the network takes them; int8 measures the ranges of activations on them.
    """
    model = _traced(network)
    if precision == "int8":
        from convcraft.deploy.formats.onnx_int8 import quantised

        return {FILE: quantised(model, INPUT, images)}
    return {FILE: model}


def _traced(network: ExportNetwork) -> bytes:
    import onnx  # noqa: F401  (torch imports it late and then names another package)
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            network,
            (network.example(),),
            dynamo=True,
            optimize=True,
            verbose=False,
            input_names=[INPUT],
            output_names=list(network.output_names),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    model = program.model_proto
    for described in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output):
        del described.metadata_props[:]
    for weights in model.graph.initializer:
        del weights.metadata_props[:]
    return bytes(model.SerializeToString())


def check(files: Files) -> None:
    check_onnx(files[FILE], FILE)


def open_session(files: Files, precision: str, runtime: Runtime) -> Session:
    """ONNX Runtime on the CPU; nothing of the model's folder is read, for it has none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if runtime.threads is not None:
        options.intra_op_num_threads = runtime.threads
    session = onnxruntime.InferenceSession(files[FILE], options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(images: NDArray[np.generic]) -> Outputs:
        return named_outputs(names, session.run(names, {INPUT: np.ascontiguousarray(images)}))

    return run


def named_outputs(names: Sequence[str], values: Sequence[NDArray[np.float32]]) -> Outputs:
    given = dict(zip(names, values, strict=True))
    return Outputs(given[LOGITS], given.get(FEATURES))


FORMAT = Format(
    name="onnx",
    description="one file for ONNX Runtime and most other tools",
    files=(FILE,),
    precisions=("float32", "int8"),
    package="onnxruntime",
    base=True,
    native_code=False,
    write=write,
    check=check,
    open=open_session,
)
