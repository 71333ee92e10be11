"""OpenVINO, the quickest on most processors of Intel and AMD; run by OpenVINO, without torch (the extra `openvino`).

The precision of the arithmetic is pinned: left alone, OpenVINO takes bfloat16 where the processor has it, and answers
otherwise than it was asked to.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import threading
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from convcraft.deploy.formats import onnx
from convcraft.deploy.formats.form import BATCH_SIZE, Files, Format, Quantise, Runtime, Session
from convcraft.deploy.formats.no_telemetry import no_telemetry
from convcraft.deploy.openvino_guard import check_openvino
from convcraft.evaluation.outputs import Outputs

if TYPE_CHECKING:
    from convcraft.deploy.export_network import ExportNetwork

XML, WEIGHTS = "model.xml", "model.bin"
HINTS = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}  # int8: of what stays unquantised
FIXED_SIZES = (1,)  # batches that get a network of their own: with a fixed size it is planned better
AVERAGES = ["AvgPool", "ReduceMean"]
WITHOUT_BIAS = "/WithoutBiases"  # what OpenVINO puts behind the name of a layer whose bias became a node of its own


def write(network: ExportNetwork, images: NDArray[np.generic], precision: str) -> dict[str, bytes]:
    """model.xml and model.bin.

    bfloat16: weights are stored in 16 bits, as float16, which rounds them less than the arithmetic does.
    """
    if precision == "int8":
        return quantiser(network, images)(())
    return _saved(_converted(onnx.traced(network)), half=precision == "bfloat16")


def quantiser(network: ExportNetwork, images: NDArray[np.generic]) -> Quantise:
    """model.xml and model.bin in int8, with layers of choice in floating point."""
    from convcraft.deploy.compress.rounding import mean_rounding_errors
    from convcraft.deploy.formats.onnx_layers import without_rounding_errors

    model = onnx.traced(network)
    errors = mean_rounding_errors(network, images)

    def quantise(keep: Collection[str]) -> dict[str, bytes]:
        corrected = without_rounding_errors(model, errors, keep)
        # OpenVINO calls the last layer by its output where it has no bias.
        named = [name for node in corrected.graph.node if node.name in keep for name in (node.name, *node.output)]
        return _saved(quantised(_converted(corrected), images, named), half=False)

    return quantise


def quantised(model: Any, images: NDArray[np.generic], keep: Collection[str] = ()) -> Any:
    """The OpenVINO model with weights and activations in int8, by NNCF.

    Ranges are the least and largest values: on ResNet-20, NNCF's own choice, means over batches, changed the logits
    three times as much (docs/bundle.md). Its correction of biases is left out for `mean_rounding_errors`, after which
    it adds noise. All weights have 8 bits, also the first layer's, where NNCF would take 7 so that sums cannot overflow
    on processors without VNNI (before 2019); there the probes of a bundle show whether they do.

    Args:
        keep: layers that stay in floating point. Where there are any, averages do too: NNCF would round their inputs
            even between two such layers.
    """
    with no_telemetry():
        import nncf
    from nncf.quantization.advanced_parameters import AdvancedQuantizationParameters, OverflowFix
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    nncf.set_log_level(logging.ERROR)
    batches = [images[start : start + BATCH_SIZE] for start in range(0, len(images), BATCH_SIZE)]
    kept = [operation.get_friendly_name() for operation in model.get_ordered_ops() if _layer(operation) in keep]
    with contextlib.redirect_stdout(io.StringIO()):  # progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(batches),
            subset_size=len(images),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=kept, types=AVERAGES, validate=False) if kept else None,
            advanced_parameters=AdvancedQuantizationParameters(
                disable_bias_correction=True,
                overflow_fix=OverflowFix.DISABLE,
                activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
            ),
        )


def _layer(operation: Any) -> str | None:
    if operation.get_type_name() not in ("Convolution", "GroupConvolution", "MatMul"):
        return None
    name: str = operation.get_friendly_name()
    return name.removesuffix(WITHOUT_BIAS)


def _converted(model: Any) -> Any:
    with no_telemetry():
        import openvino

    return openvino.convert_model(io.BytesIO(model.SerializeToString()))


def _saved(model: Any, *, half: bool) -> dict[str, bytes]:
    import openvino

    _number_names(model)
    with tempfile.TemporaryDirectory() as folder:
        openvino.save_model(model, Path(folder) / XML, compress_to_fp16=half)
        return {name: (Path(folder) / name).read_bytes() for name in (XML, WEIGHTS)}


def _number_names(model: Any) -> None:
    """In place of the numbers that OpenVINO gives, which grow with all that a process converts, positions: the same
    network then gives the same bytes."""
    for position, operation in enumerate(model.get_ordered_ops()):
        if operation.get_type_name() not in ("Parameter", "Result") and _layer(operation) is None:
            operation.set_friendly_name(f"{operation.get_type_name()}_{position}")


def check(files: Files) -> None:
    check_openvino(files[XML], files[WEIGHTS], XML)


def open_session(files: Files, precision: str, runtime: Runtime) -> Session:
    """On the CPU, from memory, with nothing cached on disk. Threads are not bound to cores: two processes that bind
    theirs take the same ones."""
    with no_telemetry():
        import openvino

    core = openvino.Core()
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,
    }
    if runtime.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = runtime.threads
    model = core.read_model(files[XML], openvino.Tensor(np.frombuffer(files[WEIGHTS], np.uint8)))
    names = [next(iter(output.get_names())) for output in model.outputs]
    requests: dict[int, Any] = {}
    one_at_a_time = threading.Lock()

    def request(batch_size: int) -> Any:
        size = batch_size if batch_size in FIXED_SIZES else 0
        if size not in requests:
            own = model.clone()
            if size:
                own.reshape([size, *[dimension.get_length() for dimension in list(model.input(0).partial_shape)[1:]]])
            requests[size] = core.compile_model(own, "CPU", settings).create_infer_request()
        return requests[size]

    def run(images: NDArray[np.generic]) -> Outputs:
        with one_at_a_time:
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
    quantiser=quantiser,
)
