"""OpenVINO, the quickest on most processors of Intel and AMD; run by OpenVINO, without torch (the extra `openvino`).

The precision of the arithmetic is pinned: left alone, OpenVINO takes bfloat16 where the processor has it, and answers
otherwise than it was asked to.
"""

from __future__ import annotations

import contextlib
import io
import logging
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats import onnx
from convcraft.deploy.formats.form import Files, Format, Runtime, Session
from convcraft.deploy.openvino_guard import check_openvino

if TYPE_CHECKING:
    from convcraft.deploy.export_network import ExportNetwork

XML, WEIGHTS = "model.xml", "model.bin"
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # int8: of what stays unquantised
FIXED_SIZES = (1,)  # batches that get a network of their own: with a fixed size it is planned better


def write(network: ExportNetwork, images: NDArray[np.generic], precision: str) -> dict[str, bytes]:
    """model.xml and model.bin; int8 by post-training quantisation (NNCF), ranges measured on the images."""
    model = _converted(onnx.write(network, images, "float32")[onnx.FILE])
    if precision == "int8":
        model = quantised(model, images)
    return _saved(model)


def quantised(model: Any, images: NDArray[np.generic], keep: Collection[str] = ()) -> Any:
    """The OpenVINO model with weights and activations in int8.

    Ranges are the least and largest values (on MobileNetV2 and ResNet-20, quantiles and means of batches agreed less
    with the source); biases are not corrected, which cost agreement as well.

    Args:
        keep: operations, by friendly name, that stay in floating point.
    """
    import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    parameters = AdvancedQuantizationParameters(
        disable_bias_correction=True, activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX
    )
    with contextlib.redirect_stdout(sys.stderr):  # where progress belongs
        return nncf.quantize(
            model,
            nncf.Dataset([images[at : at + 1] for at in range(len(images))]),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=list(keep)) if keep else None,
            advanced_parameters=parameters,
        )


def _converted(model: bytes) -> Any:
    import openvino

    return openvino.convert_model(io.BytesIO(model))


def _saved(model: Any) -> dict[str, bytes]:
    import openvino

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / XML
        openvino.save_model(model, path, compress_to_fp16=False)
        return {name: (Path(scratch) / name).read_bytes() for name in (XML, WEIGHTS)}


def check(files: Files) -> None:
    check_openvino(files[XML], files[WEIGHTS], XML)


def open_session(files: Files, precision: str, runtime: Runtime) -> Session:
    """On the CPU, from memory, with nothing cached on disk."""
    import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "LATENCY"}
    if runtime.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = runtime.threads
    weights = openvino.Tensor(np.frombuffer(files[WEIGHTS], np.uint8))
    model = core.read_model(files[XML], weights)
    names = [next(iter(output.get_names())) for output in model.outputs]
    compiled: dict[int, Any] = {}

    def request(batch_size: int) -> Any:
        size = batch_size if batch_size in FIXED_SIZES else 0
        if size not in compiled:
            own = model.clone()
            if size:
                own.reshape([size, *[dimension.get_length() for dimension in list(model.input(0).partial_shape)[1:]]])
            compiled[size] = core.compile_model(own, "CPU", settings).create_infer_request()
        return compiled[size]

    def run(images: NDArray[np.generic]) -> Any:
        answers = request(len(images)).infer({0: np.ascontiguousarray(images)})
        return onnx.named_outputs(names, [np.array(answers[at], np.float32) for at in range(len(names))])

    return run


FORMAT = Format(
    name="openvino",
    description="the quickest on processors of Intel and AMD",
    files=(XML, WEIGHTS),
    precisions=("float32", "bfloat16", "int8"),
    package="openvino",
    base=True,
    native_code=False,
    write=write,
    check=check,
    open=open_session,
)
