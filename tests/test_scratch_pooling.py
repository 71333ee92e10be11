"""Pooling of the NumPy engine against torch where it is easy to be wrong: ties, borders, NaN, windows that overlap."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scratch_parity import assert_differences, assert_equal, gap
from torch import nn
from torch.nn import functional as F

from convcraft.scratch import layers, pooling


def both(input: np.ndarray, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Output and input gradient of max pooling, ours and torch's, for gradients 1, 2, 3 ..."""
    tensor = torch.tensor(input, requires_grad=True)
    expected = F.max_pool2d(tensor, **settings)
    grads = 1.0 + np.arange(expected.numel(), dtype=input.dtype).reshape(tuple(expected.shape))
    expected.backward(torch.tensor(grads))
    output, saved = pooling.max_pool2d_forward(input, **settings)
    assert tensor.grad is not None
    return output, pooling.max_pool2d_backward(grads, saved), expected.detach().numpy(), tensor.grad.numpy()


def test_of_equal_numbers_the_first_gets_the_gradient() -> None:
    output, grad, expected, expected_grad = both(np.zeros((1, 1, 4, 4)), kernel_size=2)
    assert np.array_equal(output, expected)
    assert np.array_equal(grad, expected_grad)
    assert np.array_equal(grad[0, 0], [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])


@pytest.mark.parametrize("settings", [{"kernel_size": 3, "stride": 1}, {"kernel_size": 3, "stride": 2, "padding": 1}])
def test_ties_where_windows_overlap(settings: dict[str, Any]) -> None:
    few_values = np.random.default_rng(0).integers(0, 3, (3, 4, 9, 8)).astype(np.float64)
    output, grad, expected, expected_grad = both(few_values, **settings)
    assert np.array_equal(output, expected)
    assert np.array_equal(grad, expected_grad)


@pytest.mark.parametrize("settings", [{"kernel_size": 2}, {"kernel_size": 3, "stride": 1, "padding": 1}])
def test_nan_goes_through_and_takes_the_gradient(settings: dict[str, Any]) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 3, 6, 6))
    maps[np.random.default_rng(1).random(maps.shape) < 0.2] = np.nan
    output, grad, expected, expected_grad = both(maps, **settings)
    assert np.isnan(output).any()
    assert np.array_equal(output, expected, equal_nan=True)
    assert np.array_equal(grad, expected_grad)


def test_padding_never_wins() -> None:
    maps = -1000 - np.random.default_rng(0).random((1, 2, 5, 5))
    output, grad, expected, expected_grad = both(maps, kernel_size=3, stride=2, padding=1)
    assert (output < -999).all()
    assert np.array_equal(output, expected)
    assert np.array_equal(grad, expected_grad)


@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "stride": 2, "ceil_mode": True},
        {"kernel_size": 2, "stride": 3, "padding": 1, "ceil_mode": True},  # the last window would lie in the padding
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 0)},
        {"kernel_size": 5, "stride": 1, "padding": 2},
        {"kernel_size": 2, "stride": 2, "dilation": (1, 2)},
        {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "ceil_mode": True},
    ],
)
def test_max_pooling_of_odd_maps(settings: dict[str, Any]) -> None:
    assert_equal(layers.MaxPool2d(**settings), nn.MaxPool2d(**settings), (2, 3, 11, 8))


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("count_include_pad", [False, True])
@pytest.mark.parametrize("divisor_override", [None, 7])
def test_what_average_pooling_divides_by(ceil_mode: bool, count_include_pad: bool, divisor_override: int) -> None:
    settings: dict[str, Any] = {"kernel_size": (3, 2), "stride": 2, "padding": 1, "ceil_mode": ceil_mode}
    settings |= {"count_include_pad": count_include_pad, "divisor_override": divisor_override}
    assert_equal(layers.AvgPool2d(**settings), nn.AvgPool2d(**settings), (2, 3, 8, 7))
    assert_differences(layers.AvgPool2d(**settings), (1, 2, 8, 7))


def test_the_corner_of_an_average() -> None:
    """Of a map of ones, the corner of a padded 3x3 mean sees 4 ones: 4 / 9, or 4 / 4 where padding does not count."""
    ones = np.ones((1, 1, 4, 4))
    counted = pooling.avg_pool2d(ones, 3, stride=1, padding=1)
    not_counted = pooling.avg_pool2d(ones, 3, stride=1, padding=1, count_include_pad=False)
    assert round(float(counted[0, 0, 0, 0]), 2) == 0.44
    assert np.array_equal(not_counted, ones)


@pytest.mark.parametrize("size", [1, 3, 8, 11, (2, 13)])
def test_adaptive_windows_overlap_where_sizes_do_not_divide(size: Any) -> None:
    assert_equal(layers.AdaptiveAvgPool2d(size), nn.AdaptiveAvgPool2d(size), (2, 3, 8, 11))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_order_in_memory_stay(order: tuple[int, ...], dtype: Any) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 5, 6, 7)).astype(dtype)
    maps = np.ascontiguousarray(maps.transpose(order)).transpose(np.argsort(order))
    for layer in (layers.MaxPool2d(3, 2, 1), layers.AvgPool2d(2), layers.AdaptiveAvgPool2d(2)):
        output = layer(maps)
        grad = layer.backward(np.ones_like(output))
        for array in (output, grad):
            assert array.dtype == dtype
            assert tuple(np.argsort([-stride for stride in array.strides], kind="stable")) == order


@pytest.mark.parametrize("name", ["max_pool2d", "avg_pool2d"])
def test_one_image_without_a_batch_axis(name: str) -> None:
    image = np.random.default_rng(0).standard_normal((3, 6, 5))
    settings = {"kernel_size": 3, "stride": 2, "padding": 1, "ceil_mode": True}
    assert gap(getattr(pooling, name)(image, **settings), getattr(F, name)(torch.tensor(image), **settings)) <= 1e-12
    averaged = F.adaptive_avg_pool2d(torch.tensor(image), (2, 4))
    assert gap(pooling.adaptive_avg_pool2d(image, (2, 4)), averaged) <= 1e-12


def test_an_empty_batch() -> None:
    nothing = np.zeros((0, 3, 6, 5), np.float32)
    for layer in (layers.MaxPool2d(2), layers.AvgPool2d(2), layers.AdaptiveAvgPool2d(2)):
        output = layer(nothing)
        assert output.shape[:2] == (0, 3)
        assert layer.backward(output).shape == nothing.shape


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.one_of(st.none(), st.tuples(st.integers(1, 4), st.integers(1, 4))),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    ceil_mode=st.booleans(),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    few_values=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_max_pooling_of_any_sizes(
    kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool, size: Any, few_values: bool
) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 2, *size))
    maps = np.round(maps) if few_values else maps
    arguments = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    arguments["ceil_mode"] = ceil_mode
    try:
        found = F.max_pool2d(torch.tensor(maps), **arguments)
    except RuntimeError:
        with pytest.raises(ValueError, match="expected"):
            pooling.max_pool2d(maps, **arguments)
        return
    if torch.isinf(found).any():  # a dilated window of padding alone: torch's backward then writes beside its array
        assert np.array_equal(pooling.max_pool2d(maps, **arguments), found)
        return
    output, grad, expected, expected_grad = both(maps, **arguments)
    assert np.array_equal(output, expected)
    assert gap(grad, torch.tensor(expected_grad)) <= 1e-10


@given(
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    ceil_mode=st.booleans(),
    count_include_pad=st.booleans(),
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
)
@settings(max_examples=300, deadline=None)
def test_average_pooling_of_any_sizes(
    kernel: Any, stride: Any, padding: Any, ceil_mode: bool, count_include_pad: bool, size: Any
) -> None:
    arguments = {"kernel_size": kernel, "stride": stride, "padding": padding, "ceil_mode": ceil_mode}
    arguments["count_include_pad"] = count_include_pad
    maps = np.zeros((2, 2, *size))
    try:
        F.avg_pool2d(torch.tensor(maps), **arguments)
    except RuntimeError:
        with pytest.raises(ValueError, match="expected"):
            pooling.avg_pool2d(maps, **arguments)
        return
    assert_equal(layers.AvgPool2d(**arguments), nn.AvgPool2d(**arguments), (2, 2, *size))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda maps: pooling.max_pool2d(maps, 2, padding=2), "padding (2, 2) for a window of (2, 2)"),
        (lambda maps: pooling.max_pool2d(maps, 9), "maps of 6x5"),
        (lambda maps: pooling.max_pool2d(maps, 2, return_indices=True), "return_indices=True"),
        (lambda maps: pooling.max_pool2d(maps, 2, stride=0), "stride=0"),
        (lambda maps: pooling.avg_pool2d(maps, 2, divisor_override=0), "divisor_override=0"),
        (lambda maps: pooling.avg_pool2d(maps.astype(np.int64), 2), "int64"),
        (lambda maps: pooling.avg_pool2d(maps[0, 0], 2), "[6, 5]"),
        (lambda maps: pooling.adaptive_avg_pool2d(maps, 0), "output_size=0"),
        (lambda maps: pooling.adaptive_avg_pool2d(maps, (None, 2)), "output_size=(None, 2)"),
    ],
)
def test_refusals(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        call(np.zeros((1, 3, 6, 5)))
    assert words in str(refused.value)
