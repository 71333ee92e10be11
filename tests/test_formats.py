"""Every format in every precision answers as the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from exported import small_network
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import nn

from convcraft.config import ModelConfig
from convcraft.data.preprocess import Preprocess
from convcraft.deploy.compress.rounding import layers_of
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats import onnx
from convcraft.deploy.formats.catalogue import FORMATS, find_format
from convcraft.deploy.formats.form import Format, Runtime, Session
from convcraft.deploy.judges import session_outputs, source_outputs
from convcraft.deploy.machine import package_version
from convcraft.deploy.privacy import refuse_private
from convcraft.deploy.probes import drawing
from convcraft.evaluation.outputs import Outputs

NUM_IMAGES = 32
# Of the range of the logits; least share of images with the same first class.
BOUNDS = {"float32": (1e-4, 1.0), "bfloat16": (0.1, 0.85), "int8": (0.2, 0.8)}


@dataclass(frozen=True)
class Case:
    """A network and what goes in and out: features too, pixels in place of normalised images."""

    model: str
    contract: Preprocess
    features: bool
    normalises: bool


GREY = Preprocess(height=28, width=28, channels=1, mean=(0.13,), std=(0.31,))
CASES = {
    "grey digits": Case("lenet5", GREY, features=False, normalises=False),
    "grey pixels, features": Case("lenet5", GREY, features=True, normalises=True),
    "residual": Case(
        "resnet20_cifar",
        Preprocess(height=32, width=32, channels=3, mean=(0.5,), std=(0.25,)),
        features=True,
        normalises=False,
    ),
    "depthwise pixels": Case(
        "timm/mobilenetv2_100",
        Preprocess(height=64, width=64, channels=3, mean=(0.5,), std=(0.25,)),
        features=True,
        normalises=True,
    ),
}
QUICK = ("grey digits", "grey pixels, features")
COMPILED = "aot-inductor"  # minutes
CHAOTIC = "depthwise pixels", "int8"  # random weights make much of any noise: `test_published_weights_in_int8`


@pytest.fixture(autouse=True)
def _traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tracing takes most of the time, and most formats begin with the same one."""
    monkeypatch.setattr(onnx, "traced", traced_once)


@cache
def traced_once(network: ExportNetwork, traced: Callable[[ExportNetwork], Any] = onnx.traced) -> Any:
    return traced(network)


@cache
def network_of(case: str) -> ExportNetwork:
    return make_network(case)


def make_network(case: str) -> ExportNetwork:
    about = CASES[case]
    model = small_network(about.model, 10, about.contract)
    return ExportNetwork(
        model,
        about.contract,
        features=about.features,
        normalises=about.normalises,
        made_by=ModelConfig(name=about.model),
    )


@cache
def pixels_of(case: str, first: int = 0) -> NDArray[np.uint8]:
    """uint8 [N, H, W, C]: drawings."""
    contract = CASES[case].contract
    side = (contract.height, contract.width)
    return np.stack([contract.pixels(drawing(first + seed, *side)) for seed in range(NUM_IMAGES)])


@cache
def files_of(case: str, name: str, precision: str) -> dict[str, bytes]:
    network = network_of(case)
    calibration = network.inputs_of(pixels_of(case, first=1000))
    return find_format(name).write(network, calibration, precision)


def form_of(name: str) -> Format:
    form = find_format(name)
    if package_version(form.package) is None:
        pytest.skip(f"{form.package} is not installed")
    if name in ("onnx", "openvino"):
        pytest.importorskip("onnxscript", reason="the extra `export` is not installed")
    return form


def session_of(case: str, name: str, precision: str) -> Session:
    return form_of(name).open(files_of(case, name, precision), precision, Runtime(threads=1))


def variants() -> list[object]:
    """Everything on the digits; on larger networks, and where a compiler runs, as slow tests."""
    found = []
    for case in CASES:
        for name in FORMATS:
            for precision in find_format(name).precisions:
                slow = case not in QUICK or name == COMPILED or (name, precision) == ("openvino", "int8")
                if (case, precision) == CHAOTIC:
                    continue
                if name != COMPILED or case == "grey pixels, features":
                    marks = [pytest.mark.slow] if slow else []
                    found.append(pytest.param(case, name, precision, marks=marks, id=f"{case}-{name}-{precision}"))
    return found


@pytest.mark.parametrize(("case", "name", "precision"), variants())
def test_answers_as_its_source(case: str, name: str, precision: str) -> None:
    form_of(name)
    network, pixels = network_of(case), pixels_of(case)
    expected, session = source_outputs(network, pixels), session_of(case, name, precision)
    inputs, bound = network.inputs_of(pixels), BOUNDS[precision]
    for batch_size in (1, 3, 16):
        parts = [session(inputs[at : at + batch_size]) for at in range(0, NUM_IMAGES, batch_size)]
        logits = np.concatenate([part.logits for part in parts])
        assert logits.dtype == np.float32
        assert relative(logits, expected.logits) <= bound[0]
        assert (logits.argmax(axis=1) == expected.logits.argmax(axis=1)).mean() >= bound[1]
        assert [part.features is not None for part in parts] == [CASES[case].features] * len(parts)
        if expected.features is not None:
            features = np.concatenate([part.features for part in parts if part.features is not None])
            assert features.dtype == np.float32
            assert relative(features, expected.features) <= bound[0]
    files = files_of(case, name, precision)
    assert set(files) == set(form_of(name).files)
    form_of(name).check(files)
    refuse_private(files)


def relative(got: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """The largest difference as a share of the range."""
    assert got.shape == expected.shape
    return float(np.abs(got - expected).max() / np.ptp(expected))


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("onnx", "float32"),
        ("onnx", "int8"),
        ("openvino", "float32"),
        pytest.param("openvino", "int8", marks=pytest.mark.slow),
        ("safetensors", "bfloat16"),
    ],
)
def test_the_same_network_gives_the_same_bytes(name: str, precision: str) -> None:
    network = make_network("grey digits")
    calibration = network.inputs_of(pixels_of("grey digits", first=1000))
    assert form_of(name).write(network, calibration, precision) == files_of("grey digits", name, precision)


def test_low_precision_is_stored_in_fewer_bytes() -> None:
    sizes = {
        (name, precision): sum(map(len, files_of("grey digits", name, precision).values()))
        for name, precision in (
            ("openvino", "float32"),
            ("openvino", "bfloat16"),
            ("onnx", "float32"),
            ("onnx", "int8"),
        )
    }
    assert sizes["openvino", "bfloat16"] < 0.75 * sizes["openvino", "float32"]
    assert sizes["onnx", "int8"] < 0.4 * sizes["onnx", "float32"]


def test_openvino_computes_in_float32_although_the_processor_has_less() -> None:
    """Left to itself it takes bfloat16 on processors that have it."""
    inputs = network_of("grey digits").inputs_of(pixels_of("grey digits"))
    expected = source_outputs(network_of("grey digits"), pixels_of("grey digits")).logits
    assert relative(session_of("grey digits", "openvino", "float32")(inputs).logits, expected) < 1e-5


@pytest.mark.parametrize("name", ["onnx", "openvino", "safetensors"])
def test_threads_that_share_a_session_get_their_own_answers(name: str) -> None:
    inputs = network_of("grey pixels, features").inputs_of(pixels_of("grey pixels, features"))
    session = session_of("grey pixels, features", name, "float32")
    alone = [session(inputs[at : at + 1]) for at in range(NUM_IMAGES)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda at: session(inputs[at : at + 1]), range(NUM_IMAGES)))
    for one, other in zip(alone, together, strict=True):
        assert_equal(one, other)


def test_answers_are_not_overwritten_by_later_ones() -> None:
    inputs = network_of("grey digits").inputs_of(pixels_of("grey digits"))
    for name in ("onnx", "openvino", "safetensors", "pt2"):
        session = session_of("grey digits", name, "float32")
        first = session(inputs[:1])
        kept = first.logits.copy()
        session(inputs[1:2])
        np.testing.assert_array_equal(first.logits, kept)


def assert_equal(one: Outputs, other: Outputs) -> None:
    np.testing.assert_array_equal(one.logits, other.logits)
    if one.features is not None:
        np.testing.assert_array_equal(one.features, other.features)


@pytest.mark.parametrize("name", ["onnx", pytest.param("openvino", marks=pytest.mark.slow)])
def test_layers_that_are_given_back_make_no_noise(name: str) -> None:
    form, network = form_of(name), network_of("grey digits")
    inputs = network.inputs_of(pixels_of("grey digits"))
    expected = source_outputs(network, pixels_of("grey digits")).logits
    assert form.quantiser is not None
    quantise = form.quantiser(network, network.inputs_of(pixels_of("grey digits", first=1000)))
    layers = list(layers_of(network))
    noise, sizes = [], []
    for number in (0, 2, len(layers)):
        files = quantise(layers[:number])
        form.check(files)
        logits = form.open(files, "int8", Runtime(1))(inputs).logits
        noise.append(float(np.sqrt(np.mean((logits - expected) ** 2))))
        sizes.append(max(map(len, files.values())))
    assert noise[0] > noise[2]
    assert sizes == sorted(sizes)
    assert noise[2] <= 1e-5 * np.ptp(expected)
    assert quantise(()) == files_of("grey digits", name, "int8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_published_weights_in_int8(name: str, data_dir: Path) -> None:
    """MobileNetV2 trained on ImageNet, calibrated on 32 photos, asked about 32 others."""
    model = timm.create_model("mobilenetv2_100", pad_type="same")
    model.load_state_dict(load_file(data_dir / "weights" / "mobilenetv2_100_imagenet.safetensors"))
    contract = Preprocess(height=224, width=224, channels=3, crop_fraction=0.875, mean=(0.5,), std=(0.5,))
    network, photos = ExportNetwork(model.eval(), contract), data_dir / "hymenoptera"
    seen, fresh = (
        np.stack([contract.pixels(photo) for photo in sorted((photos / split).rglob("*.jpg"))[::4][:32]])
        for split in ("train", "val")
    )
    form = form_of(name)
    session = form.open(form.write(network, network.inputs_of(seen), "int8"), "int8", Runtime())
    expected = source_outputs(network, fresh).logits
    logits = session_outputs(session, network, fresh).logits
    assert np.sqrt(np.mean((logits - expected) ** 2)) < 0.12 * expected.std()
    assert (logits.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.85


def test_layers_have_their_names_in_onnx() -> None:
    onnx_package = pytest.importorskip("onnx")
    model = onnx_package.load_from_string(files_of("grey digits", "onnx", "float32")["model.onnx"])
    named = {node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm", "MatMul")}
    assert named == set(layers_of(network_of("grey digits")))


def test_onnx_int8_stays_in_8_bits_through_a_block() -> None:
    """A sum in float32 between two convolutions makes ONNX Runtime slower than all in float32."""
    onnx_package = pytest.importorskip("onnx")
    graph = onnx_package.load_from_string(files_of("residual", "onnx", "int8")["model.onnx"]).graph
    made_by = {output: node for node in graph.node for output in node.output}
    used_by = {name: node for node in graph.node for name in node.input}
    sums = [node for node in graph.node if node.op_type == "Add"]
    assert len(sums) == 9
    for node in graph.node:
        if node.op_type in ("Conv", "Add"):
            assert {made_by[name].op_type for name in node.input[:2]} == {"DequantizeLinear"}
            after = used_by[node.output[0]]
            after = used_by[after.output[0]] if after.op_type == "Relu" else after
            assert after.op_type in ("QuantizeLinear", "ReduceMean")


def test_the_network_itself_is_left_as_it_was() -> None:
    """Formats for torch work on a copy in another layout and type."""
    network = network_of("residual")
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    half = network.for_torch("bfloat16")
    assert half.source is network.source
    assert {tensor.dtype for tensor in half.body.parameters()} == {torch.bfloat16}
    assert all(isinstance(part, nn.Module) for part in (half.body, network.body))
    for name, tensor in network.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert tensor.is_contiguous()
        assert torch.equal(tensor, before[name])
