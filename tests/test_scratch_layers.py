"""Every layer of the NumPy engine against torch in float64, and against central differences."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import scratch_planted_bugs as planted
import torch
from scratch_parity import assert_differences, assert_equal, gap, gaps, take_over
from torch import nn

from convcraft.scratch import layers
from convcraft.scratch.module import Module, Sequential

CONVOLUTIONS: list[tuple[dict[str, Any], tuple[int, ...]]] = [
    ({"in_channels": 1, "out_channels": 1, "kernel_size": 3}, (1, 1, 5, 5)),
    ({"in_channels": 3, "out_channels": 4, "kernel_size": 3, "padding": 1}, (2, 3, 7, 9)),
    ({"in_channels": 3, "out_channels": 4, "kernel_size": 3, "stride": 2, "padding": 1}, (2, 3, 8, 7)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 1, "stride": 2, "bias": False}, (2, 2, 5, 6)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": (3, 2), "stride": (1, 3), "padding": (2, 0)}, (2, 2, 6, 11)),
    ({"in_channels": 2, "out_channels": 3, "kernel_size": 3, "dilation": 2, "padding": 2}, (2, 2, 9, 8)),
    ({"in_channels": 4, "out_channels": 6, "kernel_size": 3, "groups": 2, "padding": 1}, (2, 4, 6, 5)),
    ({"in_channels": 4, "out_channels": 8, "kernel_size": 3, "groups": 4, "stride": 2}, (2, 4, 7, 7)),
    ({"in_channels": 20, "out_channels": 18, "kernel_size": 3, "padding": 1}, (3, 20, 9, 10)),
    ({"in_channels": 9, "out_channels": 5, "kernel_size": 5, "dilation": (1, 2), "padding": "same"}, (2, 9, 8, 9)),
    ({"in_channels": 2, "out_channels": 2, "kernel_size": 2, "padding": "same"}, (1, 2, 4, 5)),
    ({"in_channels": 1, "out_channels": 6, "kernel_size": 5, "padding": 2}, (3, 1, 28, 28)),
    ({"in_channels": 3, "out_channels": 8, "kernel_size": 11, "stride": 4, "padding": 2}, (1, 3, 31, 35)),
]
POOLS: list[dict[str, Any]] = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": (1, 2), "padding": (1, 1)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},
]


@pytest.mark.parametrize(("settings", "shape"), CONVOLUTIONS)
def test_convolution(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_equal(layers.Conv2d(**settings), nn.Conv2d(**settings), shape)


@pytest.mark.parametrize(("settings", "shape"), CONVOLUTIONS[:8])
def test_convolution_by_differences(settings: dict[str, Any], shape: tuple[int, ...]) -> None:
    assert_differences(layers.Conv2d(**settings), shape)


@pytest.mark.parametrize("channels", [1, 4, 16])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_convolution_of_no_images(channels: int, dtype: Any) -> None:
    layer = layers.Conv2d(channels, 16, 3, padding=1).astype(dtype)
    output = layer(np.zeros((0, channels, 9, 8), dtype))
    assert output.shape == (0, 16, 9, 8)
    assert layer.backward(output).shape == (0, channels, 9, 8)
    assert all(parameter.grad.dtype == dtype and not parameter.grad.any() for parameter in layer.parameters())


def test_the_first_layer_may_leave_out_its_input_gradient() -> None:
    with_it, without = layers.Conv2d(2, 3, 3), layers.Conv2d(2, 3, 3)
    without.load_state_dict(with_it.state_dict())
    without.need_input_grad = False
    images = np.random.default_rng(0).standard_normal((2, 2, 5, 5)).astype(np.float32)
    for layer in (with_it, without):
        layer.backward(np.ones_like(layer(images)))
    assert np.array_equal(with_it.weight.grad, without.weight.grad)
    assert without.backward(np.ones_like(without(images))).size == 0  # whoever uses it all the same fails at once


@pytest.mark.parametrize("settings", POOLS)
@pytest.mark.parametrize("kind", ["MaxPool2d", "AvgPool2d"])
def test_pooling(kind: str, settings: dict[str, Any]) -> None:
    layer, twin = getattr(layers, kind)(**settings), getattr(nn, kind)(**settings)
    assert_equal(layer, twin, (2, 3, 9, 8))
    assert_differences(layer, (2, 2, 7, 6))


def test_dilated_max_pooling() -> None:
    assert_equal(layers.MaxPool2d(2, stride=2, dilation=2), nn.MaxPool2d(2, stride=2, dilation=2), (2, 3, 9, 8))


@pytest.mark.parametrize("settings", [{"count_include_pad": False}, {"divisor_override": 5}])
def test_what_an_average_divides_by(settings: dict[str, Any]) -> None:
    common = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True, **settings}
    assert_equal(layers.AvgPool2d(**common), nn.AvgPool2d(**common), (2, 3, 8, 7))


@pytest.mark.parametrize("size", [1, 2, (3, 5), (7, 4)])
def test_adaptive_pooling(size: Any) -> None:
    assert_equal(layers.AdaptiveAvgPool2d(size), nn.AdaptiveAvgPool2d(size), (2, 3, 11, 9))
    assert_differences(layers.AdaptiveAvgPool2d(size), (1, 2, 8, 7))


@pytest.mark.parametrize(
    ("layer", "twin"),
    [
        (layers.ReLU(), nn.ReLU()),
        (layers.LeakyReLU(), nn.LeakyReLU()),
        (layers.LeakyReLU(0.2), nn.LeakyReLU(0.2)),
        (layers.Sigmoid(), nn.Sigmoid()),
        (layers.Tanh(), nn.Tanh()),
        (layers.Softmax(1), nn.Softmax(1)),
        (layers.LogSoftmax(1), nn.LogSoftmax(1)),
        (layers.Softmax(-1), nn.Softmax(-1)),
        (layers.Identity(), nn.Identity()),
        (layers.Flatten(), nn.Flatten()),
        (layers.LocalResponseNorm(5, 0.3, 0.6, 2.0), nn.LocalResponseNorm(5, 0.3, 0.6, 2.0)),
        (layers.LocalResponseNorm(2), nn.LocalResponseNorm(2)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_without_parameters(layer: Module, twin: nn.Module) -> None:
    assert_equal(layer, twin, (3, 6, 4, 5), scale=3.0)
    assert_differences(layer, (2, 4, 3, 2))


@pytest.mark.parametrize("bias", [True, False])
def test_linear(bias: bool) -> None:
    assert_equal(layers.Linear(7, 4, bias=bias), nn.Linear(7, 4, bias=bias), (5, 7))
    assert_equal(layers.Linear(7, 4, bias=bias), nn.Linear(7, 4, bias=bias), (2, 3, 7))
    assert_differences(layers.Linear(5, 3, bias=bias), (4, 5))


def with_history(twin: nn.BatchNorm2d) -> nn.BatchNorm2d:
    """Weights, biases and running statistics that are not those of a new norm."""
    torch.manual_seed(0)
    for name, tensor in (*twin.named_parameters(), *twin.named_buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand_like(tensor) + (0.5 if name in ("weight", "running_var") else 0.0)
    return twin


@pytest.mark.parametrize("settings", [{}, {"momentum": 0.3, "eps": 1e-3}, {"momentum": None}, {"affine": False}])
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm(settings: dict[str, Any], training: bool) -> None:
    layer, twin = layers.BatchNorm2d(4, **settings), with_history(nn.BatchNorm2d(4, **settings))
    layer.train(training)
    twin.train(training)
    for _ in range(3):  # the running statistics go on moving
        assert_equal(layer, twin, (3, 4, 5, 3))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_without_running_statistics(training: bool) -> None:
    settings = {"track_running_stats": False}
    layer, twin = layers.BatchNorm2d(4, **settings), nn.BatchNorm2d(4, **settings)
    layer.train(training)
    twin.train(training)
    assert_equal(layer, twin, (3, 4, 5, 3))


@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_by_differences(training: bool) -> None:
    layer = layers.BatchNorm2d(3)
    layer.train(training)
    assert_differences(layer, (3, 3, 2, 3))


def test_batch_norm_of_channels_last_memory() -> None:
    layer, twin = layers.BatchNorm2d(4), with_history(nn.BatchNorm2d(4))
    take_over(layer, twin)
    maps = np.random.default_rng(0).standard_normal((3, 5, 6, 4)).transpose(0, 3, 1, 2)
    assert maps.strides[1] == maps.itemsize
    assert max(gaps(layer, twin, maps).values()) <= 1e-12


def test_a_frozen_norm_keeps_its_statistics_and_its_derivative_in_training() -> None:
    layer, evaluated = layers.BatchNorm2d(3), layers.BatchNorm2d(3)
    twin = with_history(nn.BatchNorm2d(3))
    for each in (layer, evaluated):
        take_over(each, twin)
    layer.frozen = True
    layer.train()
    evaluated.eval()
    before = layer.state_dict()
    maps, grads = np.random.default_rng(0).standard_normal((2, 2, 3, 4, 4))
    assert np.array_equal(layer(maps), evaluated(maps))
    assert np.array_equal(layer.backward(grads), evaluated.backward(grads))
    assert all(np.array_equal(array, before[name]) for name, array in layer.state_dict().items())


def test_dropout_by_a_given_mask_and_in_evaluation() -> None:
    layer = layers.Dropout(0.4, np.random.default_rng(0))
    numbers = np.random.default_rng(1).standard_normal((50, 40))
    output = layer(numbers)
    assert layer.mask is not None
    kept = layer.mask != 0
    assert gap(output[kept], numbers[kept] / 0.6) < 1e-12
    assert 0.55 < kept.mean() < 0.65
    assert np.array_equal(layer.backward(np.ones_like(numbers)), layer.mask)
    mask = np.zeros_like(numbers)
    mask[0] = 3.0
    layer.next_mask = mask
    assert np.array_equal(layer(numbers), numbers * mask)
    layer.eval()
    assert layer(numbers) is numbers


@pytest.mark.parametrize(("stride", "new_channels"), [(1, 3), (2, 4), (2, 0), (3, 1)])
def test_the_shortcut_without_parameters(stride: int, new_channels: int) -> None:
    class Twin(nn.Module):
        def forward(self, maps: torch.Tensor) -> torch.Tensor:
            before = new_channels // 2
            picked = maps[:, :, ::stride, ::stride]
            return nn.functional.pad(picked, (0, 0, 0, 0, before, new_channels - before))

    assert_equal(layers.PadShortcut(stride, new_channels), Twin(), (2, 3, 7, 6))
    assert_differences(layers.PadShortcut(stride, new_channels), (1, 2, 5, 4))


def test_the_gradient_of_a_sum_goes_both_ways() -> None:
    block = layers.Residual()
    branch = layers.Conv2d(2, 2, 3, padding=1)
    block.connect((branch,), layers.Identity(), layers.Identity())
    block.branch = branch
    assert_differences(block, (2, 2, 4, 4))
    assert list(dict(block.named_parameters())) == ["branch.weight", "branch.bias"]


def test_flatten_in_the_order_of_keras() -> None:
    maps = np.arange(24.0).reshape(1, 2, 3, 4)
    layer = layers.Flatten(channels_last=True)
    assert np.array_equal(layer(maps)[0], maps[0].transpose(1, 2, 0).ravel())
    assert np.array_equal(layer.backward(layer(maps)), maps)


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1), (1, 0, 2, 3)])
def test_results_do_not_depend_on_the_order_in_memory(order: tuple[int, ...]) -> None:
    network = Sequential(
        layers.Conv2d(3, 20, 3, padding=1, rng=np.random.default_rng(0)),
        layers.BatchNorm2d(20),
        layers.ReLU(),
        layers.MaxPool2d(3, 2, 1),
        layers.Conv2d(20, 16, 3, rng=np.random.default_rng(1)),
        layers.AvgPool2d(2),
        layers.Flatten(),
    ).astype(np.float64)
    images = np.random.default_rng(2).standard_normal((4, 3, 10, 12))
    stored = np.ascontiguousarray(images.transpose(order)).transpose(np.argsort(order))
    results = []
    for each in (images, stored):
        twin = copy.deepcopy(network)
        output = twin(each)
        results.append((output, twin.backward(np.cos(output))))
    assert gap(results[0][0], results[1][0]) < 1e-12
    assert gap(results[0][1], results[1][1]) < 1e-12


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: layers.Conv2d(3, 4, 3, groups=2), "groups=2 for 3 -> 4 channels"),
        (lambda: layers.Conv2d(3, 4, 0), "kernel_size=0"),
        (lambda: layers.Dropout(1.0), "p=1.0"),
        (lambda: layers.BatchNorm2d(3)(np.zeros((2, 3), np.float32)), "B, C, H, W"),
        (lambda: layers.BatchNorm2d(3)(np.zeros((1, 3, 1, 1), np.float32)), "one value per channel"),
        (lambda: layers.Flatten()(np.zeros(3)), "B, ..."),
        (lambda: layers.Linear(3, 2)(np.zeros((2, 4), np.float32)), "mixes images"),
        (lambda: layers.Conv2d(3, 2, 3)(np.zeros((1, 3, 5, 5), np.float64)), "one dtype"),
        (lambda: layers.Conv2d(3, 2, 3)(np.zeros((1, 3, 5, 5), np.int64)), "int64"),
        (lambda: layers.Conv2d(3, 2, 3)(np.zeros((1, 3, 2, 5), np.float32)), "reaches over 3x3"),
    ],
)
def test_refusals_say_what_came_and_what_is_wanted(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        call()
    assert words in str(refused.value)


NEGATIVE_CONTROLS: list[tuple[Module, nn.Module, tuple[int, ...]]] = [
    (planted.ConvFlippedKernel(2, 3, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1), (2, 2, 5, 4)),
    (planted.ConvMissingSum(2, 3, 3), nn.Conv2d(2, 3, 3), (2, 2, 5, 4)),
    (planted.ConvPaddingCutWrongly(2, 3, 3, padding=1), nn.Conv2d(2, 3, 3, padding=1), (2, 2, 5, 4)),
    (planted.ConvGroupsMixed(4, 4, 3, groups=2), nn.Conv2d(4, 4, 3, groups=2), (2, 4, 5, 4)),
    (planted.LinearTransposed(4, 4), nn.Linear(4, 4), (3, 4)),
    (planted.LinearBiasNotSummed(4, 3), nn.Linear(4, 3), (3, 4)),
    (planted.BatchNormMeanConstant(3), nn.BatchNorm2d(3), (3, 3, 4, 3)),
    (planted.BatchNormEvalFormulaInTraining(3), nn.BatchNorm2d(3), (3, 3, 4, 3)),
    (planted.BatchNormTrainingFormulaInEval(3).eval(), nn.BatchNorm2d(3).eval(), (3, 3, 4, 3)),
    (planted.ReLUPassesAll(), nn.ReLU(), (3, 4)),
    (planted.LeakyReLUForgetsSlope(0.3), nn.LeakyReLU(0.3), (3, 4)),
    (planted.SigmoidDerivativeForgotten(), nn.Sigmoid(), (3, 4)),
    (planted.TanhWithoutSquare(), nn.Tanh(), (3, 4)),
    (planted.MaxPoolSharesAmongAll(2), nn.MaxPool2d(2), (2, 2, 4, 6)),
    (planted.AvgPoolNotDivided(2), nn.AvgPool2d(2), (2, 2, 4, 6)),
    (planted.AdaptivePoolOnlyFirstPixel(2), nn.AdaptiveAvgPool2d(2), (2, 2, 4, 6)),
    (planted.FlattenReadsAcross(), nn.Flatten(), (2, 2, 3, 2)),
    (planted.SoftmaxDiagonalOnly(1), nn.Softmax(1), (3, 4)),
    (planted.LogSoftmaxWithoutSum(1), nn.LogSoftmax(1), (3, 4)),
    (planted.LRNForgetsNeighbours(3, 0.5), nn.LocalResponseNorm(3, 0.5), (2, 4, 3, 2)),
]


@pytest.mark.parametrize(("bug", "twin", "shape"), NEGATIVE_CONTROLS, ids=lambda value: type(value).__name__)
def test_the_parity_tests_fail_on_planted_bugs(bug: Module, twin: nn.Module, shape: tuple[int, ...]) -> None:
    """Negative controls: a suite that a wrong layer passes proves nothing."""
    with pytest.raises(AssertionError):
        assert_equal(bug, twin, shape)
