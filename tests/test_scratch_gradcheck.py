"""The checker names every planted bug, and finds nothing wrong with what is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scratch_planted_bugs import LAYER_BUGS, LOSS_BUGS, OPTIMIZER_BUGS, clip_each_alone

from convcraft.scratch import layers, losses, optim
from convcraft.scratch.checks import Array
from convcraft.scratch.gradcheck import check_gradients, check_loss, numeric_gradient
from convcraft.scratch.module import Module, Parameter, Sequential
from convcraft.scratch.networks.resnet_cifar import BasicBlock, PlainBlock
from convcraft.scratch.optimizer_check import check_optimizer


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("layer", "input", "words"), LAYER_BUGS, ids=[type(bug[0]).__name__ for bug in LAYER_BUGS])
def test_a_bug_in_a_layer_is_caught_and_named(layer: Module, input: Array, words: str) -> None:
    report = check_gradients(layer, input)
    assert not report.passed
    assert words in "\n".join(report.lines()), report.lines()


@pytest.mark.parametrize(
    ("loss", "input", "target", "words"), LOSS_BUGS, ids=[type(bug[0]).__name__ for bug in LOSS_BUGS]
)
def test_a_bug_in_a_loss_is_caught_and_named(loss: losses.Loss, input: Array, target: Array, words: str) -> None:
    report = check_loss(loss, input, target)
    assert not report.passed
    assert words in "\n".join(report.lines()), report.lines()


@pytest.mark.parametrize(("kind", "words"), OPTIMIZER_BUGS, ids=[bug[0].__name__ for bug in OPTIMIZER_BUGS])
def test_a_bug_in_an_optimizer_is_caught_and_named(kind: type[optim.Optimizer], words: str) -> None:
    report = check_optimizer(kind)
    assert not report.passed
    assert words in report.line()


@pytest.mark.parametrize("kind", [optim.SGD, optim.RMSprop, optim.Adam, optim.AdamW])
def test_sound_optimizers_pass(kind: type[optim.Optimizer]) -> None:
    assert check_optimizer(kind).passed, check_optimizer(kind).line()


def test_clipping_each_gradient_alone_turns_the_step() -> None:
    def gradients() -> list[Parameter]:
        parameters = [Parameter(np.zeros(2)), Parameter(np.zeros(2))]
        parameters[0].grad[:], parameters[1].grad[:] = (3, 4), (0.3, 0.4)
        return parameters

    sound, wrong = gradients(), gradients()
    assert optim.clip_grad_norm(sound, 1.0) == pytest.approx(clip_each_alone(wrong, 1.0))
    ratio = [float(parameters[0].grad[0] / parameters[1].grad[0]) for parameters in (sound, wrong)]
    assert ratio[0] == pytest.approx(10)
    assert ratio[1] != pytest.approx(10)


SOUND: list[tuple[Any, tuple[int, ...]]] = [
    (lambda: layers.Conv2d(2, 3, 3, padding=1, rng=rng()), (2, 2, 5, 4)),
    (lambda: layers.Conv2d(4, 6, (3, 1), stride=2, groups=2, dilation=(2, 1), rng=rng()), (2, 4, 7, 5)),
    (lambda: layers.Conv2d(18, 16, 3, padding=1, rng=rng()), (2, 18, 5, 4)),
    (lambda: layers.Linear(5, 3, rng=rng()), (4, 5)),
    (lambda: layers.BatchNorm2d(3), (3, 3, 3, 2)),
    (lambda: layers.BatchNorm2d(3).eval(), (3, 3, 3, 2)),
    (lambda: layers.LocalResponseNorm(3, 0.5), (2, 5, 2, 3)),
    (layers.ReLU, (4, 5)),
    (lambda: layers.LeakyReLU(0.2), (4, 5)),
    (layers.Sigmoid, (4, 5)),
    (layers.Tanh, (4, 5)),
    (lambda: layers.Softmax(1), (3, 5)),
    (lambda: layers.LogSoftmax(1), (3, 5)),
    (lambda: layers.MaxPool2d(3, 2, 1), (2, 2, 6, 5)),
    (lambda: layers.AvgPool2d(2), (2, 2, 6, 5)),
    (lambda: layers.AdaptiveAvgPool2d((2, 3)), (2, 2, 6, 5)),
    (layers.Flatten, (3, 2, 2, 2)),
    (lambda: layers.Dropout(0.3, rng()), (5, 6)),
    (lambda: layers.PadShortcut(2, 3), (2, 3, 5, 4)),
    (lambda: BasicBlock(2, 4, 2, rng()), (3, 2, 6, 6)),
    (lambda: PlainBlock(2, 3, 1, rng()), (3, 2, 4, 4)),
    (
        lambda: Sequential(layers.Conv2d(1, 2, 3, rng=rng()), layers.Flatten(), layers.Linear(8, 3, rng=rng())),
        (2, 1, 4, 4),
    ),
]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("make", "shape"), SOUND)
def test_sound_layers_pass(make: Any, shape: tuple[int, ...], seed: int) -> None:
    report = check_gradients(make(), rng(seed).standard_normal(shape), seed)
    assert report.passed, report.lines()


@pytest.mark.parametrize("make", [layers.ReLU, layers.LeakyReLU, lambda: layers.MaxPool2d(2)])
def test_corners_and_ties_are_not_called_wrong(make: Any) -> None:
    numbers = rng().integers(-1, 2, (2, 2, 4, 4)).astype(float)  # zeros and equal neighbours everywhere
    report = check_gradients(make(), numbers)
    assert report.passed, report.lines()


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (losses.CrossEntropyLoss(), np.array([2, 0, 1])),
        (losses.CrossEntropyLoss(np.array([0.5, 2.0, 1.0, 0.1]), 0, "mean", 0.2), np.array([2, 0, 1])),
        (losses.CrossEntropyLoss(reduction="sum"), np.full((3, 4), 0.25)),
        (losses.NLLLoss(), np.array([2, 0, 1])),
        (losses.BCEWithLogitsLoss(pos_weight=np.array([1.0, 2.0, 3.0, 4.0])), np.full((3, 4), 0.3)),
        (losses.MSELoss(), np.ones((3, 4))),
    ],
)
def test_sound_losses_pass(loss: losses.Loss, target: Array) -> None:
    report = check_loss(loss, rng().standard_normal((3, 4)), target)
    assert report.passed, report.lines()


def test_a_layer_is_examined_without_being_changed() -> None:
    layer = layers.BatchNorm2d(3)
    before = layer.state_dict()
    check_gradients(layer, rng().standard_normal((2, 3, 2, 2)))
    assert all(np.array_equal(array, before[name]) for name, array in layer.state_dict().items())
    assert layer.training


def test_an_input_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="expected a forward that runs"):
        check_gradients(layers.Linear(3, 2), np.zeros((2, 5)))


def test_a_backward_that_stops_is_reported() -> None:
    class Broken(layers.ReLU):
        def backward(self, grad_output: Array) -> Array:
            raise IndexError("index 9 is out of bounds")

    report = check_gradients(Broken(), np.ones((2, 2)))
    assert report.broken_rules == ["backward stops with IndexError: index 9 is out of bounds"]
    assert report.to_dict()["passed"] is False


def test_an_unknown_optimizer_is_refused() -> None:
    with pytest.raises(ValueError, match="Derive it from one of them"):
        check_optimizer(optim.Optimizer)


def test_numeric_gradient_of_a_known_function() -> None:
    numbers = np.array([1.0, 2.0, -3.0])
    assert np.allclose(numeric_gradient(lambda: float((numbers**3).sum()), numbers), 3 * numbers**2)
    assert np.array_equal(numbers, [1.0, 2.0, -3.0])
