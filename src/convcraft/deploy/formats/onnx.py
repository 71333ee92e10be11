"""ONNX, one file, any batch size; run by ONNX Runtime, which the base install has."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats.form import FEATURES, LOGITS, Files, Format, Quantise, Runtime, Session
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
    if precision == "int8":
        return quantiser(network, images)(())
    return {FILE: traced(network).SerializeToString()}


def quantiser(network: ExportNetwork, images: NDArray[np.generic]) -> Quantise:
    """model.onnx in int8, with layers of choice in float32."""
    from convcraft.deploy.compress.rounding import mean_rounding_errors
    from convcraft.deploy.formats.onnx_int8 import activation_ranges, quantised
    from convcraft.deploy.formats.onnx_layers import without_rounding_errors

    model = traced(network)
    ranges = activation_ranges(model, INPUT, images)
    errors = mean_rounding_errors(network, images)
    return lambda keep: {FILE: quantised(without_rounding_errors(model, errors, keep), ranges, keep)}


def traced(network: ExportNetwork) -> Any:
    """The network as an onnx.ModelProto, its layers named as the modules are."""
    import onnx  # noqa: F401  (torch imports it late and then names another package)
    import torch

    from convcraft.deploy.formats.onnx_layers import name_layers

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
    name_layers(model)
    return model


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
    quantiser=quantiser,
)
