"""Every trap of docs/scratch-traps.md: the page prints what it shows, and the engine is on the right side."""

from __future__ import annotations

import contextlib
import io
import json
import re
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scratch_cifar import WEIGHTS, cifar_images, trained_resnet20
from scratch_parity import gap
from torch import nn

from convcraft.scratch import activations, functional, layers, losses, normalisation, optim
from convcraft.scratch.gradcheck import check_gradients
from convcraft.scratch.module import Module, Parameter, Sequential
from convcraft.scratch.networks.resnet_cifar import ResNetCifar

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "scratch-traps.md"
sys.path.insert(0, str(ROOT / "docs" / "tutorial"))

from pages import FENCED, differs  # noqa: E402


def page_blocks() -> list[tuple[str, str]]:
    """Code and what is shown behind it, or nothing."""
    found = [(match[1], match[2]) for match in FENCED.finditer(PAGE.read_text(encoding="utf-8"))]
    shown = [*found[1:], ("", "")]
    return [
        (code, text if kind == "text" else "")
        for (which, code), (kind, text) in zip(found, shown, strict=True)
        if which == "python"
    ]


def test_the_page_prints_what_it_shows() -> None:
    names: dict[str, Any] = {}
    for code, shown in page_blocks():
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102 - the page's own code
        # The first figure is a mean over gradients of a float32 network, which depend a little on the order of sums.
        assert not differs(output.getvalue(), shown, 0.1 if "cosine" in shown else 0.0), (shown, output.getvalue())


def test_the_page_shows_something_for_every_trap() -> None:
    sections = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    assert len(sections) >= 14
    assert all("```text" in section or "](assets/" in section for section in sections)


# Batch norm ---------------------------------------------------------------------------------------------------------


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float((one * other).sum() / np.linalg.norm(one) / np.linalg.norm(other))


def test_backward_of_batch_norm_in_evaluation_on_the_trained_network(data_dir: Path) -> None:
    if not (data_dir / WEIGHTS).exists():
        pytest.skip(f"no {WEIGHTS}")
    network, twin = trained_resnet20(data_dir)
    images, _ = cifar_images(data_dir, 100)
    cosines, errors = [], []
    for image in images[:, None]:
        tensor = torch.tensor(image, requires_grad=True)
        twin(tensor).max().backward()
        assert tensor.grad is not None
        expected = tensor.grad.numpy()
        winner = np.eye(10, dtype=np.float32)[network(image).argmax(axis=1)]
        right = network.backward(winner)
        errors.append(np.linalg.norm(right - expected) / np.linalg.norm(expected))
        for layer in network.modules():
            if isinstance(layer, layers.BatchNorm2d):
                layer.saved = replace(layer.saved, of_batch=True)
        cosines.append(cosine(network.backward(winner), expected))
    assert np.mean(cosines) == pytest.approx(-0.06, abs=0.02)  # the figures of the page
    assert np.median(errors) <= 2e-6
    assert np.quantile(errors, 0.8) <= 1e-3  # more only where a ReLU's input is within rounding of 0


@pytest.mark.parametrize("frozen", [False, True])
def test_evaluation_and_frozen_norms_have_constant_statistics(frozen: bool) -> None:
    layer = layers.BatchNorm2d(3).astype(np.float64)
    layer.train(frozen)
    layer.frozen = frozen
    grads = np.random.default_rng(0).standard_normal((2, 3, 4, 4))
    layer(grads)
    assert gap(layer.backward(np.ones_like(grads)), np.full_like(grads, 1 / np.sqrt(1 + 1e-5))) <= 1e-15


def test_running_variance_is_unbiased_and_normalisation_is_not() -> None:
    values = np.random.default_rng(0).standard_normal((4, 1))
    mean, variance = np.zeros(1), np.ones(1)
    output = normalisation.batch_norm(values, mean, variance, training=True, momentum=1.0, eps=1e-15)
    assert variance[0] == pytest.approx(values.var(ddof=1), rel=1e-12)
    assert output.var() == pytest.approx(1.0, rel=1e-12)  # not (M - 1) / M


def test_kerass_momentum_is_one_minus_torchs() -> None:
    keras_momentum, batches = 0.99, np.random.default_rng(0).normal(3, 2, (50, 32, 1))
    mean, variance = np.zeros(1), np.ones(1)
    keras_mean = 0.0
    for batch in batches:
        normalisation.batch_norm(batch, mean, variance, training=True, momentum=1 - keras_momentum)
        keras_mean = keras_momentum * keras_mean + (1 - keras_momentum) * batch.mean()
    assert mean[0] == pytest.approx(keras_mean, rel=1e-12)


@pytest.mark.parametrize("mean", [0.0, 1e3, -1e4])
def test_variance_of_float32_far_from_zero(mean: float) -> None:
    maps = np.random.default_rng(0).normal(mean, 1, (8, 4, 16, 16)).astype(np.float32)
    variance = normalisation.batch_statistics(maps)[1]
    exact = maps.astype(np.float64).var(axis=(0, 2, 3))
    assert np.abs(variance - exact).max() <= 1e-3 if abs(mean) > 1e3 else 1e-5


# dtypes -------------------------------------------------------------------------------------------------------------

TENTH = np.float64(0.1)  # a setting that NumPy has computed, as settings often are


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2d(4, 4, 3, padding=1),
        layers.Conv2d(16, 16, 3, padding=1),
        layers.BatchNorm2d(4, eps=TENTH, momentum=TENTH),
        layers.BatchNorm2d(4, momentum=None),
        layers.LocalResponseNorm(3, alpha=TENTH, beta=np.float64(0.75), k=np.float64(1.0)),
        layers.ReLU(),
        layers.LeakyReLU(TENTH),
        layers.Sigmoid(),
        layers.Tanh(),
        layers.Softmax(1),
        layers.LogSoftmax(1),
        layers.MaxPool2d(3, 2, 1),
        layers.AvgPool2d(3, 2, 1, count_include_pad=False),
        layers.AvgPool2d(2, divisor_override=3),
        layers.AdaptiveAvgPool2d(3),
        layers.Dropout(TENTH),
        layers.PadShortcut(2, 4),
        layers.Flatten(),
        layers.Linear(8, 5),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("training", [True, False])
def test_float32_stays_float32(layer: Module, training: bool) -> None:
    channels = layer.weight.data.shape[1] if isinstance(layer, layers.Conv2d) else 4
    images = np.random.default_rng(0).standard_normal((2, channels, 8, 8)).astype(np.float32)
    layer.train(training)
    output = layer(images)
    assert output.dtype == np.float32
    assert layer.backward(np.ones_like(output)).dtype == np.float32
    for name, array in [(name, each.grad) for name, each in layer.named_parameters()] + list(
        layer.state_dict().items()
    ):
        assert array.dtype == (np.int64 if name.endswith("tracked") else np.float32), name


def test_settings_of_losses_and_optimisers_do_not_promote() -> None:
    logits, labels = np.zeros((2, 3), np.float32), np.array([0, 2])
    criterion = losses.CrossEntropyLoss(label_smoothing=TENTH)
    assert criterion(logits, labels).dtype == criterion.backward().dtype == np.float32
    for rule in (optim.SGD, optim.RMSprop, optim.Adam, optim.AdamW):
        parameter = Parameter(np.ones(3, np.float32))
        parameter.grad += 1
        rule([parameter], learning_rate=TENTH, weight_decay=TENTH).step()
        assert parameter.data.dtype == np.float32
    parameter.grad += 100
    optim.clip_grad_norm([parameter], np.float64(1.0))
    assert parameter.grad.dtype == np.float32


# Large numbers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_softmax_sigmoid_and_loss_of_large_logits(dtype: Any) -> None:
    large = np.array([[1000.0, 999.0], [-1000.0, 1000.0]], dtype)
    with np.errstate(over="raise", invalid="raise"):
        shares, logs = activations.softmax(large, 1), activations.log_softmax(large, 1)
        loss = losses.cross_entropy(large, np.array([1, 0]))
    assert shares[0] == pytest.approx([0.731, 0.269], abs=1e-3)
    assert np.isfinite(logs).all()
    assert loss == pytest.approx((1.3133 + 2000) / 2, rel=1e-4)
    assert activations.sigmoid(large[1]) == pytest.approx([0, 1])


# Ties, zeros, borders -----------------------------------------------------------------------------------------------


def test_gradient_at_zero() -> None:
    numbers = np.array([-1.0, 0.0, -0.0, 1.0])
    for layer, twin in ((layers.ReLU(), nn.ReLU()), (layers.LeakyReLU(0.1), nn.LeakyReLU(0.1))):
        tensor = torch.tensor(numbers, requires_grad=True)
        twin(tensor).sum().backward()
        layer(numbers)
        assert np.array_equal(layer.backward(np.ones(4)), tensor.grad.numpy())


def test_a_max_pooling_of_equal_numbers_gives_its_gradient_once() -> None:
    layer = layers.MaxPool2d(3, stride=1, padding=1)
    equal = np.ones((2, 3, 6, 6))
    layer(equal)
    assert layer.backward(np.ones((2, 3, 6, 6))).sum() == 2 * 3 * 6 * 6


# Memory -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", [3, 5])
def test_a_convolution_keeps_no_columns(kernel: int) -> None:
    layer = layers.Conv2d(16, 16, kernel, padding="same")
    images = np.zeros((16, 16, 48, 48), np.float32)
    columns = images.nbytes * kernel * kernel
    layer(images)
    layer = layers.Conv2d(16, 16, kernel, padding="same")
    tracemalloc.start()
    output = layer(images)
    kept = tracemalloc.get_traced_memory()[0] - output.nbytes
    tracemalloc.stop()
    assert kept < columns / 2.5, (kept / columns, kept / images.nbytes)


# Modes --------------------------------------------------------------------------------------------------------------


def test_explaining_in_evaluation_or_with_frozen_norms_leaves_the_statistics_alone() -> None:
    network = ResNetCifar(rng=np.random.default_rng(0))
    images = np.random.default_rng(0).standard_normal((4, 3, 16, 16)).astype(np.float32)
    before = network.state_dict()

    def changed() -> list[str]:
        network.backward(np.ones_like(network(images)))
        return [name for name, array in network.state_dict().items() if not np.array_equal(array, before[name])]

    network.eval()
    assert changed() == []
    network.train()
    for layer in network.modules():
        if isinstance(layer, layers.BatchNorm2d):
            layer.frozen = True
    assert changed() == []
    for layer in network.modules():
        if isinstance(layer, layers.BatchNorm2d):
            layer.frozen = False
    assert len(changed()) == 3 * 19


def test_figures_on_diverging_runs_are_those_measured() -> None:
    result = json.loads((ROOT / "benchmarks" / "results" / "scratch_resnet20.json").read_text(encoding="utf-8"))
    small, large = result["rates"]["0.01"], result["rates"]["0.1"]
    steps = [
        next(i for i, gap in enumerate(large[side]["loss_difference"], 1) if gap > 1e-6)
        for side in ("numpy", "torch_moved")
    ]
    largest = f"{small['numpy']['largest_loss_difference']:.0e}"
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    assert f"at most {largest} over {result['steps']} steps" in text
    assert f"more than 1e-6 from step {steps[0]} on" in text
    assert f"from step {steps[1]} on" in text


# Articles -----------------------------------------------------------------------------------------------------------


def test_flatten_keeps_images_apart_and_linear_refuses_mixed_ones() -> None:
    maps = np.zeros((64, 64, 5, 5), np.float32)
    assert layers.Flatten()(maps).shape == (64, 1600)
    with pytest.raises(ValueError, match="mixes images"):
        layers.Linear(64 * 8 * 8, 128)(layers.Flatten()(maps))
    with pytest.raises(ValueError, match="too few rows"):  # 25 rows for 64 labels
        losses.cross_entropy(maps.reshape(-1, 64 * 8 * 8)[:, :10], np.zeros(64, np.int64))


def test_the_first_step_of_adam_is_the_learning_rate() -> None:
    for gradient in (1e-3, 1.0, 1e3):
        weight = Parameter(np.zeros(1))
        weight.grad += gradient
        optim.Adam([weight], learning_rate=0.1).step()
        assert weight.data[0] == pytest.approx(-0.1, rel=1e-4)


def test_the_checker_sees_a_tie_as_a_corner_and_not_as_a_mistake() -> None:
    network = Sequential(layers.ReLU(), layers.MaxPool2d(2))
    maps = np.random.default_rng(0).standard_normal((2, 1, 4, 4))
    maps[0] = 0
    report = check_gradients(network, maps)
    assert report.passed, report.lines()
    assert "16 at a corner" in report.lines()[0]
    nothing = check_gradients(network, np.zeros((2, 1, 4, 4)))  # corners alone prove nothing
    assert not nothing.passed
    assert "Nothing could be tested" in nothing.lines()[0]


def test_correlation_and_convolution() -> None:
    rng = np.random.default_rng(0)
    image, kernel = rng.standard_normal((1, 1, 5, 5)), rng.standard_normal((1, 1, 3, 3))
    by_hand = np.array([[(image[0, 0, i : i + 3, j : j + 3] * kernel[0, 0]).sum() for j in range(3)] for i in range(3)])
    assert gap(functional.conv2d(image, kernel)[0, 0], by_hand) <= 1e-12
