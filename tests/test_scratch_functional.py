"""scratch.functional beside torch.nn.functional: names, argument order, defaults, answers, and clear refusals."""

from __future__ import annotations

import inspect
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scratch_parity import gap
from torch.nn import functional as T

from convcraft.scratch import functional as F

WITHIN = 1e-12
OURS_ALONE = {"dropout": {"rng"}}  # arguments behind torch's last


def arguments_of_torch(name: str) -> list[tuple[str, Any]]:
    """Names and defaults; of builtins and dispatchers from the first line of their docstring or the plain form."""
    function = T._max_pool2d if name == "max_pool2d" else getattr(T, name)
    try:
        found = inspect.signature(function).parameters.values()
        return [(each.name, None if each.default is inspect.Parameter.empty else each.default) for each in found]
    except ValueError:
        line = re.search(rf"{name}\((.*)\)", str(function.__doc__))
        assert line is not None
        pairs = [part.strip().split("=") for part in line[1].split(",")]
        return [(pair[0], eval(pair[1]) if len(pair) > 1 else None) for pair in pairs]  # noqa: S307 - torch's own text


@pytest.mark.parametrize("name", F.__all__)
def test_names_order_and_defaults_are_torchs(name: str) -> None:
    found = inspect.signature(getattr(F, name)).parameters.values()
    ours = [(each.name, None if each.default is inspect.Parameter.empty else each.default) for each in found]
    ours = [pair for pair in ours if pair[0] not in OURS_ALONE.get(name, set())]
    assert ours == arguments_of_torch(name)


def test_everything_that_is_offered_is_listed() -> None:
    public = {name for name, value in vars(F).items() if inspect.isfunction(value) and not name.startswith("_")}
    assert public - set(F.__all__) <= {"check_floating", "refuse"}


# Answers ------------------------------------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
BATCH, IMAGE, ROWS = RNG.standard_normal((2, 4, 7, 6)), RNG.standard_normal((4, 7, 6)), RNG.standard_normal((5, 4))
WEIGHT, BIAS = RNG.standard_normal((6, 4, 3, 3)), RNG.standard_normal(6)

CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("conv2d", (BATCH, WEIGHT, BIAS), {"stride": 2, "padding": 1}),
    ("conv2d", (IMAGE, WEIGHT), {"padding": "same"}),
    ("conv2d", (BATCH, WEIGHT[:, :2], BIAS, 1, (1, 2), 2, 2), {}),
    ("conv1d", (BATCH[:, :, 0], WEIGHT[:, :, 0], BIAS, 2, 1), {}),
    ("conv1d", (IMAGE[:, 0], WEIGHT[:, :, 0]), {"padding": "same", "dilation": 2}),
    ("conv1d", (IMAGE[:, 0], WEIGHT[:, :, 0]), {"padding": (1,), "stride": (2,)}),
    ("linear", (ROWS, WEIGHT[:, :, 0, 0], BIAS), {}),
    ("linear", (ROWS[0], WEIGHT[:, :, 0, 0]), {}),
    ("linear", (BATCH.transpose(0, 2, 3, 1), WEIGHT[:, :, 0, 0], BIAS), {}),
    ("max_pool2d", (BATCH, 2), {}),
    ("max_pool2d", (IMAGE, (3, 2), 2, (1, 0), 1, True), {}),
    ("avg_pool2d", (BATCH, 3, 2, 1, True, False), {}),
    ("avg_pool2d", (IMAGE, 2), {"divisor_override": 3}),
    ("adaptive_avg_pool2d", (BATCH, (3, 5)), {}),
    ("adaptive_avg_pool2d", (IMAGE, 2), {}),
    ("batch_norm", (BATCH, ROWS[0], ROWS[1] ** 2, ROWS[2], ROWS[3]), {}),
    ("batch_norm", (BATCH, None, None, ROWS[2], ROWS[3], True), {}),
    ("batch_norm", (ROWS, None, None), {"training": True, "eps": 0.1}),
    ("local_response_norm", (BATCH, 3), {"alpha": 0.1}),
    ("local_response_norm", (IMAGE, 2, 0.1, 0.5, 2.0), {}),
    ("relu", (BATCH,), {}),
    ("leaky_relu", (BATCH, 0.3), {}),
    ("sigmoid", (BATCH * 100,), {}),
    ("tanh", (BATCH,), {}),
    ("softmax", (BATCH, 1), {}),
    ("softmax", (ROWS[0], -1), {}),
    ("log_softmax", (BATCH, 2), {}),
    ("pad", (BATCH, (1, 2)), {}),
    ("pad", (BATCH, (1, 2, 3, 0, 1, 1)), {"value": 2.0}),
    ("pad", (BATCH, ()), {}),
    ("dropout", (BATCH, 0.5, False), {}),
    ("dropout", (BATCH, 0.0), {}),
    ("one_hot", (np.array([[1, 0], [3, 2]]),), {}),
    ("one_hot", (np.array([1, 0]), 5), {}),
    ("mse_loss", (BATCH, BATCH[::-1].copy()), {}),
    ("cross_entropy", (ROWS, np.array([0, 3, 1, 2, 2])), {"label_smoothing": 0.1}),
    ("nll_loss", (ROWS, np.array([0, 3, 1, 2, 2])), {"reduction": "none"}),
    ("binary_cross_entropy_with_logits", (ROWS, ROWS**2), {}),
]


def as_tensor(value: Any) -> Any:
    return torch.tensor(value) if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize(("name", "given", "settings"), CALLS)
def test_answers_are_torchs(name: str, given: Any, settings: Any) -> None:
    expected = getattr(T, name)(*[as_tensor(each) for each in given], **settings)
    output = getattr(F, name)(*given, **settings)
    assert isinstance(output, np.ndarray)
    assert str(output.dtype) == str(expected.dtype).removeprefix("torch.")
    assert gap(output, expected) <= WITHIN


def test_every_function_is_compared() -> None:
    assert {name for name, _, _ in CALLS} == set(F.__all__)


def test_batch_norm_moves_running_statistics_as_torchs_does() -> None:
    ours, theirs = (np.zeros(4), np.ones(4)), (torch.zeros(4).double(), torch.ones(4).double())
    F.batch_norm(BATCH, *ours, training=True, momentum=0.3)
    T.batch_norm(torch.tensor(BATCH), *theirs, training=True, momentum=0.3)
    assert max(gap(array, tensor) for array, tensor in zip(ours, theirs, strict=True)) <= WITHIN


def test_dropout_draws_from_the_generator_that_is_given() -> None:
    first, again = (F.dropout(np.ones((40, 50)), 0.3, rng=np.random.default_rng(1)) for _ in range(2))
    assert np.array_equal(first, again)
    assert set(np.unique(first)) == {0.0, 1 / 0.7}
    assert 0.25 < (first == 0).mean() < 0.35


def test_inputs_stay_as_they_are() -> None:
    for name, arguments, chosen in CALLS:
        arrays = [each.copy() for each in arguments if isinstance(each, np.ndarray)]
        getattr(F, name)(*arguments, **chosen)
        after = [each for each in arguments if isinstance(each, np.ndarray)]
        assert all(np.array_equal(one, other) for one, other in zip(arrays, after, strict=True)), name


# Any sizes ----------------------------------------------------------------------------------------------------------

PAIR = st.one_of(st.integers(1, 3), st.tuples(st.integers(1, 3), st.integers(1, 3)))
PADS = st.one_of(st.integers(0, 3), st.tuples(st.integers(0, 3), st.integers(0, 3)), st.sampled_from(["same", "valid"]))


@given(
    sizes=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    batch=st.one_of(st.none(), st.integers(0, 3)),
    stride=PAIR,
    padding=PADS,
    dilation=PAIR,
    bias=st.booleans(),
)
@settings(max_examples=400, deadline=None)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_convolution_of_any_sizes(
    sizes: Any,
    kernel: Any,
    groups: int,
    channels: Any,
    batch: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    bias: bool,
) -> None:
    rng = np.random.default_rng(0)
    images = rng.standard_normal(((batch,) if batch is not None else ()) + (groups * channels[0], *sizes))
    weight = rng.standard_normal((groups * channels[1], channels[0], *kernel))
    numbers = rng.standard_normal(groups * channels[1]) if bias else None
    given = (images, weight, numbers, stride, padding, dilation, groups)
    try:
        expected = T.conv2d(*[as_tensor(each) for each in given])
    except RuntimeError:
        with pytest.raises(ValueError, match="expected"):
            F.conv2d(*given)
        return
    assert gap(F.conv2d(*given), expected) <= WITHIN * weight[0].size


@given(
    length=st.integers(1, 12),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 3),
    groups=st.integers(1, 2),
)
@settings(max_examples=100, deadline=None)
def test_convolution_in_one_dimension(
    length: int, kernel: int, stride: int, padding: int, dilation: int, groups: int
) -> None:
    rng = np.random.default_rng(0)
    rows, weight = rng.standard_normal((2, 2 * groups, length)), rng.standard_normal((3 * groups, 2, kernel))
    given = (rows, weight, None, stride, padding, dilation, groups)
    try:
        expected = T.conv1d(*[as_tensor(each) for each in given])
    except RuntimeError:
        with pytest.raises(ValueError, match="expected"):
            F.conv1d(*given)
        return
    assert gap(F.conv1d(*given), expected) <= WITHIN


@given(size=st.tuples(st.integers(1, 12), st.integers(1, 12)), output=st.tuples(st.integers(1, 14), st.integers(1, 14)))
@settings(max_examples=100, deadline=None)
def test_adaptive_pooling_of_any_sizes(size: Any, output: Any) -> None:
    maps = np.random.default_rng(0).standard_normal((2, 2, *size))
    assert gap(F.adaptive_avg_pool2d(maps, output), T.adaptive_avg_pool2d(torch.tensor(maps), output)) <= WITHIN


@given(
    values=st.lists(st.floats(-1e4, 1e4), min_size=12, max_size=12),
    shape=st.sampled_from([(12,), (3, 4), (2, 3, 2)]),
    dim=st.integers(-3, 2),
)
@settings(max_examples=200, deadline=None)
def test_softmax_of_any_numbers(values: list[float], shape: Any, dim: int) -> None:
    numbers = np.array(values).reshape(shape)
    for name in ("softmax", "log_softmax"):
        try:
            expected = getattr(T, name)(torch.tensor(numbers), dim)
        except IndexError:
            with pytest.raises(ValueError, match=f"dim={dim}"):
                getattr(F, name)(numbers, dim)
            continue
        assert gap(getattr(F, name)(numbers, dim), expected) <= WITHIN * max(1.0, float(np.abs(numbers).max()))


SIZES = st.tuples(st.integers(0, 4), st.integers(1, 4), st.integers(1, 3), st.integers(1, 3))
REDUCTIONS = st.sampled_from(["mean", "sum", "none"])


def assert_answers_or_refusals_are_torchs(name: str, *given: Any, **chosen: Any) -> None:
    """The same answer; or ours refuses. Where torch refuses, ours must."""
    refused = None
    try:
        expected = getattr(T, name)(*[as_tensor(each) for each in given], **chosen)
    except (RuntimeError, ValueError, IndexError) as error:
        refused = error
    if refused is not None:
        with pytest.raises(ValueError, match="expected"):
            getattr(F, name)(*given, **chosen)
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        output = getattr(F, name)(*given, **chosen)
    assert output.shape == tuple(expected.shape)
    assert str(output.dtype) == str(expected.dtype).removeprefix("torch.")
    np.testing.assert_allclose(output, expected.numpy(), rtol=WITHIN, atol=WITHIN)


@given(
    sizes=SIZES,
    axes=st.integers(1, 4),
    statistics=st.booleans(),
    affine=st.tuples(st.booleans(), st.booleans()),
    training=st.booleans(),
    momentum=st.floats(0, 1),
    eps=st.sampled_from([1e-5, 1e-3, 0.5, 0.0, -1.0]),
)
@settings(max_examples=300, deadline=None)
def test_batch_norm_of_any_arguments(
    sizes: Any, axes: int, statistics: bool, affine: Any, training: bool, momentum: float, eps: float
) -> None:
    rng = np.random.default_rng(0)
    numbers = rng.standard_normal(sizes[:axes])
    channels = numbers.shape[1] if axes > 1 else 1
    history = [rng.standard_normal(channels), rng.random(channels) + 1.5] if statistics else [None, None]
    vectors = [rng.standard_normal(channels) if wanted else None for wanted in affine]
    theirs = [as_tensor(each) for each in history]
    if axes == 1 or not (training or statistics):  # torch lets some empty batches pass; ours refuses always
        with pytest.raises(ValueError, match="expected"):
            F.batch_norm(numbers, *history, *vectors, training, momentum, eps)
        return
    try:
        expected = T.batch_norm(
            torch.tensor(numbers), *theirs, *[as_tensor(each) for each in vectors], training, momentum, eps
        )
    except (RuntimeError, ValueError, IndexError):
        with pytest.raises(ValueError, match="expected"):
            F.batch_norm(numbers, *history, *vectors, training, momentum, eps)
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        ours = F.batch_norm(numbers, *history, *vectors, training, momentum, eps)
    np.testing.assert_allclose(ours, expected.numpy(), rtol=1e-11, atol=1e-11)
    if statistics:
        for array, tensor in zip(history, theirs, strict=True):
            np.testing.assert_allclose(array, tensor.numpy(), rtol=WITHIN, atol=WITHIN)


@given(
    sizes=SIZES,
    axes=st.integers(2, 4),
    size=st.integers(0, 6),
    alpha=st.floats(0, 2),
    beta=st.floats(0, 2),
    k=st.floats(0.5, 3),
)
@settings(max_examples=150, deadline=None)
def test_local_response_norm_of_any_arguments(
    sizes: Any, axes: int, size: int, alpha: float, beta: float, k: float
) -> None:
    numbers = np.random.default_rng(0).standard_normal(sizes[:axes])
    if size == 0 and axes > 2:  # torch divides by a mean of nothing; ours refuses
        with pytest.raises(ValueError, match="size=0"):
            F.local_response_norm(numbers, size, alpha, beta, k)
        return
    assert_answers_or_refusals_are_torchs("local_response_norm", numbers, size, alpha, beta, k)


@given(
    rows=st.one_of(st.none(), st.integers(0, 5)),
    classes=st.integers(1, 5),
    weighted=st.booleans(),
    ignored=st.integers(-2, 4),
    reduction=REDUCTIONS,
    smoothing=st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    scale=st.sampled_from([1.0, 100.0]),
    kind=st.sampled_from(["numbers", "probabilities", "too large"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=400, deadline=None)
def test_class_losses_of_any_arguments(
    rows: Any,
    classes: int,
    weighted: bool,
    ignored: int,
    reduction: str,
    smoothing: float,
    scale: float,
    kind: str,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    batch = () if rows is None else (rows,)
    logits = scale * rng.standard_normal((*batch, classes))
    weight = rng.random(classes) + 0.1 if weighted else None
    common = {"ignore_index": ignored, "reduction": reduction}
    target: Any = np.asarray(rng.integers(0, classes + (kind == "too large"), batch))
    if kind == "probabilities":
        target = rng.dirichlet(np.ones(classes), batch or None)
    settings_of_torch = {**common, "weight": as_tensor(weight)}

    def compare(name: str, **more: Any) -> None:
        try:
            expected = getattr(T, name)(torch.tensor(logits), torch.tensor(target), **settings_of_torch, **more)
        except (RuntimeError, ValueError, IndexError):
            with pytest.raises(ValueError, match="expected"):
                getattr(F, name)(logits, target, weight=weight, **common, **more)
            return
        with np.errstate(invalid="ignore", divide="ignore"):
            output = getattr(F, name)(logits, target, weight=weight, **common, **more)
        np.testing.assert_allclose(output, expected.numpy(), rtol=WITHIN, atol=WITHIN)

    compare("cross_entropy", label_smoothing=smoothing)
    compare("nll_loss")


@given(
    sizes=SIZES,
    axes=st.integers(0, 4),
    reduction=REDUCTIONS,
    factors=st.tuples(*[st.sampled_from(["none", "full", "last", "one", "larger", "wrong"])] * 2),
)
@settings(max_examples=300, deadline=None)
def test_losses_of_numbers_of_any_arguments(sizes: Any, axes: int, reduction: str, factors: Any) -> None:
    rng = np.random.default_rng(0)
    shape = sizes[4 - axes :]
    logits, target = np.asarray(5 * rng.standard_normal(shape)), np.asarray(rng.random(shape))
    shapes = {"full": shape, "last": shape[-1:], "one": (), "larger": (2, *shape), "wrong": (*shape[:-1], 7)}
    weight, pos_weight = (None if kind == "none" else np.asarray(rng.random(shapes[kind])) for kind in factors)
    assert_answers_or_refusals_are_torchs("mse_loss", logits, target, reduction=reduction)
    name = "binary_cross_entropy_with_logits"
    try:
        expected = getattr(T, name)(
            torch.tensor(logits),
            torch.tensor(target),
            as_tensor(weight),
            reduction=reduction,
            pos_weight=as_tensor(pos_weight),
        )
    except (RuntimeError, ValueError):
        with pytest.raises(ValueError, match="expected"):
            getattr(F, name)(logits, target, weight, reduction=reduction, pos_weight=pos_weight)
        return
    with np.errstate(invalid="ignore", divide="ignore"):
        output = getattr(F, name)(logits, target, weight, reduction=reduction, pos_weight=pos_weight)
    assert output.shape == tuple(expected.shape)
    np.testing.assert_allclose(output, expected.numpy(), rtol=WITHIN, atol=WITHIN)


@given(
    sizes=SIZES,
    axes=st.integers(1, 4),
    outputs=st.integers(1, 5),
    bias=st.booleans(),
    slope=st.floats(-1, 2),
    dim=st.integers(-4, 3),
)
@settings(max_examples=150, deadline=None)
def test_linear_and_activations_of_any_sizes(
    sizes: Any, axes: int, outputs: int, bias: bool, slope: float, dim: int
) -> None:
    rng = np.random.default_rng(0)
    numbers = np.asarray(rng.standard_normal(sizes[4 - axes :]))
    weight = rng.standard_normal((outputs, numbers.shape[-1]))
    assert_answers_or_refusals_are_torchs("linear", numbers, weight, rng.standard_normal(outputs) if bias else None)
    assert_answers_or_refusals_are_torchs("leaky_relu", numbers, slope)
    for name in ("relu", "sigmoid", "tanh"):
        assert_answers_or_refusals_are_torchs(name, numbers)
    for name in ("softmax", "log_softmax"):
        assert_answers_or_refusals_are_torchs(name, numbers, dim)


@given(sizes=SIZES, pads=st.lists(st.integers(0, 3), max_size=10), value=st.one_of(st.none(), st.floats(-2, 2)))
@settings(max_examples=150, deadline=None)
def test_padding_of_any_sizes(sizes: Any, pads: list[int], value: float | None) -> None:
    assert_answers_or_refusals_are_torchs("pad", np.ones(sizes), tuple(pads), value=value)


@given(numbers=st.lists(st.integers(-1, 5), max_size=4), classes=st.integers(-1, 6))
@settings(max_examples=150, deadline=None)
def test_one_hot_of_any_numbers(numbers: list[int], classes: int) -> None:
    assert_answers_or_refusals_are_torchs("one_hot", np.array(numbers, np.int64), classes)


# Refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: F.conv2d(BATCH, WEIGHT.astype(np.float32)), "input float64, weight float32"),
        (lambda: F.conv2d(BATCH.astype(np.int64), WEIGHT), "input is int64"),
        (lambda: F.conv2d(BATCH.astype(np.float16), WEIGHT), "input is float16"),
        (lambda: F.conv2d(BATCH.tolist(), WEIGHT), "input is list"),
        (lambda: F.conv2d(torch.tensor(BATCH), WEIGHT), "input is Tensor"),
        (lambda: F.conv2d(BATCH[0, 0], WEIGHT), "[7, 6]"),
        (lambda: F.conv2d(BATCH, WEIGHT[0]), "weight of shape [4, 3, 3]"),
        (lambda: F.conv2d(BATCH, WEIGHT[:, :3]), "4 input maps, 6 kernels of 3 maps, groups=1"),
        (lambda: F.conv2d(BATCH, WEIGHT, groups=3), "groups=3"),
        (lambda: F.conv2d(BATCH, WEIGHT, groups=0), "groups=0"),
        (lambda: F.conv2d(BATCH, WEIGHT, BIAS[:3]), "bias of shape [3]"),
        (lambda: F.conv2d(BATCH, WEIGHT, stride=0), "stride=0"),
        (lambda: F.conv2d(BATCH, WEIGHT, stride=(1, 2, 3)), "stride=(1, 2, 3)"),
        (lambda: F.conv2d(BATCH, WEIGHT, stride=1.5), "stride=1.5"),
        (lambda: F.conv2d(BATCH, WEIGHT, padding=-1), "padding=-1"),
        (lambda: F.conv2d(BATCH, WEIGHT, padding="full"), "padding='full'"),
        (lambda: F.conv2d(BATCH, WEIGHT, stride=2, padding="same"), 'padding="same" with stride (2, 2)'),
        (lambda: F.conv2d(BATCH, WEIGHT, dilation=4), "at most the padded input, 7x6"),
        (lambda: F.conv1d(BATCH, WEIGHT), "input [B, C, W]"),
        (lambda: F.conv1d(BATCH[:, :, 0], WEIGHT[:, :, 0], stride=(1, 2)), "stride"),
        (lambda: F.conv1d([1.0], WEIGHT[:, :, 0]), "input is list"),
        (lambda: F.linear(BATCH, WEIGHT[:, :, 0, 0]), "mixes images"),
        (lambda: F.linear(ROWS, WEIGHT), "[out_features, in_features]"),
        (lambda: F.linear(ROWS, WEIGHT[:, :, 0, 0], BIAS[:2]), "bias [2]"),
        (lambda: F.linear([1.0], WEIGHT), "input is list"),
        (lambda: F.max_pool2d(BATCH, 2, return_indices=True), "return_indices=True"),
        (lambda: F.max_pool2d([[1.0]], 2), "input is list"),
        (lambda: F.avg_pool2d(BATCH, 2, padding=2), "padding (2, 2)"),
        (lambda: F.adaptive_avg_pool2d(BATCH, (None, 3)), "output_size=(None, 3)"),
        (lambda: F.batch_norm(BATCH, None, None), "evaluation without running statistics"),
        (lambda: F.batch_norm(BATCH, ROWS[0], None), "one of running_mean and running_var"),
        (lambda: F.batch_norm(ROWS[:1], None, None, training=True), "one value per channel"),
        (lambda: F.batch_norm(BATCH, ROWS[0, :3], ROWS[0, :3]), "running_mean [3]"),
        (lambda: F.batch_norm(ROWS[0], None, None, training=True), "input [4]"),
        (lambda: F.local_response_norm(ROWS, 3), "at least 3 axes"),
        (lambda: F.local_response_norm(BATCH, 0), "size=0"),
        (lambda: F.relu(BATCH, inplace=True), "inplace=True"),
        (lambda: F.relu(np.arange(3)), "input is int64"),
        (lambda: F.leaky_relu(BATCH, inplace=True), "inplace=True"),
        (lambda: F.sigmoid(0.5), "input is float"),
        (lambda: F.tanh(torch.zeros(3)), "input is Tensor"),
        (lambda: F.softmax(ROWS), "no dim"),
        (lambda: F.softmax(ROWS, 2), "dim=2"),
        (lambda: F.log_softmax(ROWS, 1, dtype=np.float32), "dtype="),
        (lambda: F.dropout(BATCH, 1.0), "p=1.0"),
        (lambda: F.dropout(BATCH, inplace=True), "inplace=True"),
        (lambda: F.pad(BATCH, (1, 1), mode="reflect"), "mode='reflect'"),
        (lambda: F.pad(BATCH, (-1, 1)), "pad=(-1, 1)"),
        (lambda: F.pad(BATCH, (1,)), "pad=(1,)"),
        (lambda: F.one_hot(np.array([0, 3]), 3), "num_classes=3"),
        (lambda: F.one_hot(np.array([0, -1])), "class numbers -1 to 0"),
        (lambda: F.one_hot(np.array([0.0])), "tensor is float64"),
        (lambda: F.one_hot(np.zeros(0, np.int64)), "no class numbers"),
        (lambda: F.cross_entropy(BATCH, np.zeros((2, 7, 6), np.int64)), "not supported"),
        (lambda: F.cross_entropy(ROWS, [0, 1]), "expected [5]"),
        (lambda: F.mse_loss(ROWS, ROWS[:1]), "the input's shape"),
    ],
)
def test_refusals_say_what_came_what_is_wanted_and_what_to_do(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match="expected") as refused:
        call()
    message = str(refused.value)
    assert words in message
    received, rest = message.split("; expected ", 1)
    assert received
    assert re.search(r"\. \S.*\.$", rest), message  # what is expected, and a sentence that says how to mend it
