"""One convolution in eight ways: the same numbers, counted operations, honest refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms import choose, im2col_nchw, im2col_nhwc, winograd
from convcraft.scratch.conv_algorithms.catalogue import ALGORITHMS, convolve_with
from convcraft.scratch.conv_algorithms.operations import Operations
from convcraft.scratch.conv_geometry import Geometry, geometry_of
from convcraft.scratch.convolution import conv1d, conv2d, conv2d_backward, conv2d_forward, true_convolution

WINOGRAD = [name for name in ALGORITHMS if "winograd" in name]


def numbers(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def of_torch(input: Array, weight: Array, **options: Any) -> Array:
    result: Array = torch.nn.functional.conv2d(torch.tensor(input), torch.tensor(weight), **options).numpy()
    return result


CASES: list[tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = [
    ((2, 3, 9, 11), (4, 3, 3, 3), {}),
    ((2, 3, 9, 11), (4, 3, 3, 3), {"padding": 1}),
    ((1, 2, 4, 4), (3, 2, 3, 3), {"padding": (2, 0)}),
    ((2, 4, 9, 11), (6, 2, 3, 2), {"padding": (1, 2), "stride": (2, 1), "dilation": (1, 2), "groups": 2}),
    ((1, 4, 7, 7), (4, 1, 3, 3), {"groups": 4, "padding": 1}),
    ((2, 3, 12, 12), (2, 3, 5, 5), {"stride": 3}),
    ((1, 3, 13, 14), (2, 3, 11, 11), {"padding": 5}),
    ((2, 3, 5, 6), (2, 3, 1, 1), {"stride": 2}),
    ((2, 3, 1, 20), (5, 3, 1, 3), {"padding": (0, 1)}),
    ((2, 9, 6, 5), (3, 9, 2, 2), {}),
]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize(("shape", "kernel", "options"), CASES)
def test_every_algorithm_computes_what_torch_computes(
    name: str, shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]
) -> None:
    input, weight = numbers(*shape), numbers(*kernel, seed=1)
    geometry = geometry_of(input, weight, None, **{"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options})
    reason = ALGORITHMS[name].supports(geometry)
    if reason is not None:
        assert name in WINOGRAD
        with pytest.raises(ValueError, match="im2col NHWC computes all"):
            convolve_with(name, input, weight, **options)
        return
    expected = of_torch(input, weight, **options)
    output = convolve_with(name, input, weight, **options)
    assert output.shape == expected.shape
    assert np.abs(output - expected).max() <= 1e-12 * max(1.0, np.abs(expected).max()) * (20 if name in WINOGRAD else 1)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_float32_stays_float32_within_its_tolerance(name: str) -> None:
    input, weight = numbers(2, 32, 14, 15).astype(np.float32), numbers(16, 32, 3, 3, seed=1).astype(np.float32)
    if name == "direct":
        input, weight = input[:1, :, :6, :6], weight[:4]
    output = convolve_with(name, input, weight, padding=1)
    exact = of_torch(input.astype(np.float64), weight.astype(np.float64), padding=1)
    assert output.dtype == np.float32
    assert np.abs(output - exact).max() <= ALGORITHMS[name].tolerance * np.abs(exact).max()


def test_the_chosen_points_lose_less_than_the_usual_ones() -> None:
    input, weight = np.abs(numbers(2, 64, 16, 16)).astype(np.float32), numbers(32, 64, 3, 3, seed=1).astype(np.float32)
    exact = of_torch(input.astype(np.float64), weight.astype(np.float64), padding=1)
    geometry = geometry_of(input, weight, None, 1, 1, 1, 1)

    def error(points: tuple[float, ...]) -> float:
        before, winograd.POINTS[4] = winograd.POINTS[4], points
        try:
            return float(np.abs(winograd.convolve(input, weight, geometry) - exact).max())
        finally:
            winograd.POINTS[4] = before

    assert error(winograd.POINTS[4]) < 0.5 * error(winograd.USUAL_POINTS)


@pytest.mark.parametrize("outputs", [2, 4])
def test_winograd_matrices_give_every_output_exactly(outputs: int) -> None:
    own = winograd.matrices(outputs)
    pixels, kernel = numbers(outputs + 2), numbers(3, seed=1)
    result = own.output @ ((own.kernel @ kernel) * (own.input @ pixels))
    assert np.allclose(result, np.correlate(pixels, kernel, "valid"), atol=1e-13)


def test_the_usual_points_give_the_published_matrices() -> None:
    own = winograd.matrices(4, winograd.USUAL_POINTS)  # Lavin & Gray 2016, section 4.3, up to signs and scales of rows
    assert np.array_equal(np.abs(own.input[0]), [4, 0, 5, 0, 1, 0])
    assert np.array_equal(own.output[1], [0, 1, -1, 2, -2, 0])


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("size", [(4, 4), (7, 9), (12, 5)])
def test_winograd_backward_is_the_derivative(outputs: int, size: tuple[int, int]) -> None:
    input, weight, bias = numbers(2, 3, *size), numbers(4, 3, 3, 3, seed=1), numbers(4, seed=2)
    geometry = geometry_of(input, weight, bias, 1, 1, 1, 1)
    tensors = [torch.tensor(array, requires_grad=True) for array in (input, weight, bias)]
    expected = torch.nn.functional.conv2d(*tensors, padding=1)
    grads = numbers(*expected.shape, seed=3)
    expected.backward(torch.tensor(grads))
    output, saved = winograd.forward(input, weight, bias, geometry, outputs)
    found = winograd.backward(grads, saved, geometry, True)
    assert np.abs(output - expected.detach().numpy()).max() < 1e-12
    for ours, tensor in zip(found, tensors, strict=True):
        assert ours is not None
        assert np.abs(ours - tensor.grad.numpy()).max() < 1e-11
    assert winograd.backward(grads, saved, geometry, False)[0] is None


@pytest.mark.parametrize("module", [im2col_nchw, im2col_nhwc])
@pytest.mark.parametrize(("shape", "kernel", "options"), CASES)
def test_both_im2col_differentiate(
    module: Any, shape: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]
) -> None:
    input, weight = numbers(*shape), numbers(*kernel, seed=1)
    geometry = geometry_of(input, weight, None, **{"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options})
    tensors = [torch.tensor(array, requires_grad=True) for array in (input, weight)]
    expected = torch.nn.functional.conv2d(*tensors, **options)
    grads = numbers(*expected.shape, seed=3)
    expected.backward(torch.tensor(grads))
    grad_input, grad_weight, grad_bias = module.backward(grads, input, weight, geometry, True)
    assert np.abs(grad_input - tensors[0].grad.numpy()).max() < 1e-11
    assert np.abs(grad_weight - tensors[1].grad.numpy()).max() < 1e-11
    assert np.allclose(grad_bias, grads.sum(axis=(0, 2, 3)))


class Counting:
    """A number that counts what is done with it."""

    multiplications = additions = 0

    def __mul__(self, other: object) -> Counting:
        Counting.multiplications += 1
        return self

    __rmul__ = __mul__  # the padding's zeros are plain numbers

    def __add__(self, other: object) -> Counting:
        Counting.additions += 1
        return self


@pytest.mark.parametrize("options", [{}, {"stride": 2, "padding": 1}, {"groups": 2}])
def test_the_count_of_the_plain_sum_is_that_of_a_counting_loop(options: dict[str, Any]) -> None:
    settings_ = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, **options}
    input, weight = numbers(1, 4, 6, 5), numbers(4, 4 // settings_["groups"], 3, 2)
    geometry = geometry_of(input, weight, None, **settings_)
    Counting.multiplications = Counting.additions = 0
    counted = [np.full(array.shape, Counting(), object) for array in (input, weight)]
    ALGORITHMS["direct"].convolve(counted[0], counted[1], geometry)
    assert ALGORITHMS["direct"].count_ops(geometry) == Operations(Counting.multiplications, Counting.additions)
    assert convolve_with("direct", input, weight, **settings_).size == geometry.outputs


def test_winograd_multiplies_a_quarter_in_the_products() -> None:
    geometry = Geometry(1, 256, 256, (32, 32), (3, 3), before=(1, 1), after=(1, 1))
    plain = ALGORITHMS["direct"].count_ops(geometry).multiplications
    assert plain / ALGORITHMS["winograd F(4,3)"].count_ops(geometry).multiplications > 3.3  # 4 without the transforms
    assert 2.0 < plain / ALGORITHMS["winograd F(2,3)"].count_ops(geometry).multiplications < 2.26


def test_fft_does_not_care_for_the_size_of_the_kernel() -> None:
    small = Geometry(1, 16, 16, (32, 32), (3, 3))
    large = Geometry(1, 16, 16, (32, 32), (11, 11))
    fft = ALGORITHMS["fft"]
    assert fft.count_ops(small) == fft.count_ops(large)
    assert (
        ALGORITHMS["direct"].count_ops(large).multiplications
        > 5 * ALGORITHMS["direct"].count_ops(small).multiplications
    )
    assert all(algorithm.workspace_bytes(small) > 0 for algorithm in ALGORITHMS.values())


def test_correlation_and_convolution_differ_by_a_turned_kernel() -> None:
    """The golden case of d2l, and the article's formula: its kernel runs backwards, its code's does not."""
    input, kernel = np.arange(9.0).reshape(1, 1, 3, 3), np.arange(4.0).reshape(1, 1, 2, 2)
    assert conv2d(input, kernel).tolist() == [[[[19.0, 25.0], [37.0, 43.0]]]]  # 0 * 0 + 1 * 1 + 3 * 2 + 4 * 3 = 19
    turned = true_convolution(input, kernel)
    assert turned.tolist() == [[[[5.0, 11.0], [23.0, 29.0]]]]
    assert np.array_equal(turned, conv2d(input, kernel[..., ::-1, ::-1]))


@given(
    st.tuples(*[st.integers(1, 3)] * 3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_any_geometry_equals_torch_or_is_refused_by_both(
    counts: tuple[int, int, int],
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: int,
    padding: int,
    dilation: int,
) -> None:
    batch, channels, outputs = counts
    input, weight, bias = numbers(batch, channels, *size), numbers(outputs, channels, *kernel), numbers(outputs)
    tensors = [torch.tensor(array, requires_grad=True) for array in (input, weight, bias)]
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    try:
        expected = torch.nn.functional.conv2d(*tensors, **options)
    except RuntimeError:
        with pytest.raises(ValueError, match="reaches over"):
            conv2d_forward(input, weight, bias, **options)
        return
    output, saved = conv2d_forward(input, weight, bias, **options)
    assert np.abs(output - expected.detach().numpy()).max() < 1e-12
    grads = numbers(*output.shape, seed=5)
    expected.backward(torch.tensor(grads))
    for ours, tensor in zip(conv2d_backward(grads, saved), tensors, strict=True):
        assert ours is not None
        assert np.abs(ours - tensor.grad.numpy()).max() < 1e-10


@pytest.mark.parametrize(
    "options", [{}, {"stride": 2, "padding": 1}, {"padding": "same", "dilation": 2}, {"groups": 2}]
)
def test_one_dimension(options: dict[str, Any]) -> None:
    input, weight, bias = numbers(3, 4, 17), numbers(6, 4 // options.get("groups", 1), 3), numbers(6)
    expected = torch.nn.functional.conv1d(*map(torch.tensor, (input, weight, bias)), **options).numpy()
    assert np.abs(conv1d(input, weight, bias, **options) - expected).max() < 1e-12
    assert np.abs(conv1d(input[0], weight, bias, **options) - expected[0]).max() < 1e-12
    with_tuple = conv1d(input, weight, bias, stride=(2,), groups=options.get("groups", 1))
    assert with_tuple.shape == (3, 6, 8)


def test_one_image_without_batch() -> None:
    input, weight = numbers(3, 6, 7), numbers(2, 3, 3, 3)
    assert np.array_equal(conv2d(input, weight), conv2d(input[None], weight)[0])


def test_the_rule_takes_the_plain_sum_where_exactness_is_asked_for() -> None:
    wide = Geometry(8, 64, 64, (56, 56), (3, 3), before=(1, 1), after=(1, 1))
    assert choose.choose(wide, np.float32) == "winograd"
    assert choose.choose(wide, np.float64) == "im2col_nhwc"
    strided = Geometry(8, 64, 64, (56, 56), (3, 3), stride=(2, 2))
    assert choose.choose(strided, np.float32) == "im2col_nhwc"
    assert choose.choose(Geometry(8, 1, 6, (28, 28), (5, 5)), np.float32) == "im2col_nchw"
    assert choose.choose(Geometry(8, 64, 64, (1, 56), (1, 3)), np.float32) == "im2col_nhwc"


def test_a_gradient_of_another_dtype_is_refused() -> None:
    input, weight = numbers(2, 16, 8, 8).astype(np.float32), numbers(16, 16, 3, 3).astype(np.float32)
    output, saved = conv2d_forward(input, weight, padding=1)
    with pytest.raises(ValueError, match="one dtype for all"):
        conv2d_backward(output.astype(np.float64), saved)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 4, 3, 3))), "3 input maps"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)), np.zeros(3)), "bias of shape"),
        (lambda: conv2d(np.zeros((5, 5)), np.zeros((2, 3, 3, 3))), "B, C, H, W"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((3, 3, 3))), "weight of shape"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)), padding="full"), "padding='full'"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)), padding="same", stride=2), "stride"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)), stride=0), "stride=0"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)), padding=-1), "padding=-1"),
        (lambda: conv2d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)), dilation=1.5), "dilation=1.5"),
        (lambda: conv2d([[1.0]], np.zeros((2, 3, 3, 3))), "input is list"),
        (lambda: conv1d(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3))), "B, C, W"),
        (lambda: convolve_with("fastest", np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3))), "fastest"),
        (
            lambda: conv2d_backward(
                np.zeros((1, 2, 9, 9)), conv2d_forward(np.zeros((1, 3, 5, 5)), np.zeros((2, 3, 3, 3)))[1]
            ),
            "grad_output",
        ),
    ],
)
def test_refusals(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        call()
    assert words in str(refused.value)
