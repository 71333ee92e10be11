"""Layers, losses and optimisers with one mistake each, of the kind that people make, and the words that must name it.

Not a test file: tests/test_scratch_gradcheck.py sends each through the checker, and the parity tests must fail on each.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convcraft.scratch import activations, layers, losses, optim, pooling
from convcraft.scratch.checks import Array
from convcraft.scratch.conv_algorithms import im2col_nhwc
from convcraft.scratch.module import Module, Parameter

RNG = np.random.default_rng


class ConvFlippedKernel(layers.Conv2d):
    def backward(self, grad_output: Array) -> Array:
        before = self.weight.grad.copy()
        grad_input = super().backward(grad_output)
        self.weight.grad[...] = before + (self.weight.grad - before)[:, :, ::-1, ::-1]
        return grad_input


class ConvWrongTranspose(layers.Conv2d):
    def backward(self, grad_output: Array) -> Array:
        before = self.weight.grad.copy()
        grad_input = super().backward(grad_output)
        self.weight.grad[...] = before + (self.weight.grad - before).transpose(0, 1, 3, 2)
        return grad_input


class ConvMissingSum(layers.Conv2d):
    def backward(self, grad_output: Array) -> Array:
        only_first = np.zeros_like(grad_output)
        only_first[0] = grad_output[0]
        grad_input, _, grad_bias = im2col_nhwc.backward(
            grad_output, self.saved.input, self.saved.weight, self.saved.geometry, True
        )
        _, grad_weight, _ = im2col_nhwc.backward(
            only_first, self.saved.input, self.saved.weight, self.saved.geometry, False
        )
        assert grad_input is not None
        assert self.bias is not None
        self.weight.grad += grad_weight
        self.bias.grad += grad_bias
        return grad_input


class ConvPaddingCutWrongly(layers.Conv2d):
    def backward(self, grad_output: Array) -> Array:
        grad_input = super().backward(grad_output)
        moved = np.roll(grad_input, 1, axis=3)
        moved[..., 0] = 0
        return moved


class ConvBiasAveraged(layers.Conv2d):
    def backward(self, grad_output: Array) -> Array:
        assert self.bias is not None
        before = self.bias.grad.copy()
        grad_input = super().backward(grad_output)
        self.bias.grad[...] = before + (self.bias.grad - before) / len(grad_output)
        return grad_input


class ConvGroupsMixed(layers.Conv2d):
    def backward(self, grad_output: Array) -> Array:
        grad_input = super().backward(grad_output)
        half = grad_input.shape[1] // 2
        grad_input = grad_input.copy()
        grad_input[:, half:] = grad_input[:, :half]
        return grad_input


class LinearTransposed(layers.Linear):
    def backward(self, grad_output: Array) -> Array:
        grad_input = super().backward(grad_output)
        self.weight.grad[...] = self.weight.grad.T
        return grad_input


class LinearOverwrites(layers.Linear):
    def backward(self, grad_output: Array) -> Array:
        self.weight.grad.fill(0)
        return super().backward(grad_output)


class LinearBiasNotSummed(layers.Linear):
    def backward(self, grad_output: Array) -> Array:
        assert self.bias is not None
        before = self.bias.grad.copy()
        grad_input = super().backward(grad_output)
        self.bias.grad[...] = before + grad_output[-1]
        return grad_input


class BatchNormMeanConstant(layers.BatchNorm2d):
    """The variance depends on the input, the mean is taken for a constant."""

    def backward(self, grad_output: Array) -> Array:
        grad_input = super().backward(grad_output)
        assert self.weight is not None
        count = grad_output.size // grad_output.shape[1]
        term = self.saved.inverse_std * self.weight.data * grad_output.sum(axis=(0, 2, 3)) / count
        return grad_input + term[:, None, None]


class BatchNormEvalFormulaInTraining(layers.BatchNorm2d):
    """Mean and variance are taken for constants."""

    def backward(self, grad_output: Array) -> Array:
        super().backward(grad_output)
        assert self.weight is not None
        return grad_output * (self.saved.inverse_std * self.weight.data)[:, None, None]


class BatchNormTrainingFormulaInEval(layers.BatchNorm2d):
    """Evaluation with the derivative of training."""

    def backward(self, grad_output: Array) -> Array:
        grad_input = super().backward(grad_output)
        assert self.weight is not None
        scale = self.saved.inverse_std * self.weight.data
        shift = grad_output.mean(axis=(0, 2, 3)) * scale
        along = (grad_output * self.saved.normalised).mean(axis=(0, 2, 3)) * scale
        return grad_input - shift[:, None, None] - self.saved.normalised * along[:, None, None]


class BatchNormMovesInEval(layers.BatchNorm2d):
    def forward(self, input: Array) -> Array:
        output = super().forward(input)
        assert self.running_mean is not None
        self.running_mean.data += 0.1 * input.mean(axis=(0, 2, 3))
        return output


class ReLUPassesAll(layers.ReLU):
    def backward(self, grad_output: Array) -> Array:
        return grad_output.copy()


class ReLUWritesIntoItsArgument(layers.ReLU):
    def backward(self, grad_output: Array) -> Array:
        grad_output *= self.output > 0
        return grad_output


class LeakyReLUForgetsSlope(layers.LeakyReLU):
    def backward(self, grad_output: Array) -> Array:
        return activations.leaky_relu_backward(grad_output, self.input, 0.0)


class SigmoidDerivativeForgotten(layers.Sigmoid):
    def backward(self, grad_output: Array) -> Array:
        return grad_output * self.output


class TanhWithoutSquare(layers.Tanh):
    def backward(self, grad_output: Array) -> Array:
        return grad_output * (1 - self.output * self.output) * self.output


class MaxPoolSharesAmongAll(layers.MaxPool2d):
    def backward(self, grad_output: Array) -> Array:
        count = self.settings["kernel_size"] ** 2
        shares = np.full(self.saved.windows.output_size, float(count))
        return pooling.avg_pool2d_backward(grad_output, pooling.SavedAvgPool(self.saved.windows, shares))


class AvgPoolNotDivided(layers.AvgPool2d):
    def backward(self, grad_output: Array) -> Array:
        return super().backward(grad_output) * self.settings["kernel_size"] ** 2


class AdaptivePoolOnlyFirstPixel(layers.AdaptiveAvgPool2d):
    def backward(self, grad_output: Array) -> Array:
        grad_input = super().backward(grad_output)
        kept = np.zeros_like(grad_input)
        kept[:, :, 0, 0] = grad_input[:, :, 0, 0]
        return kept


class FlattenReadsAcross(layers.Flatten):
    def backward(self, grad_output: Array) -> Array:
        return grad_output.T.reshape(self.shape)


class DropoutNotScaled(layers.Dropout):
    def backward(self, grad_output: Array) -> Array:
        assert self.mask is not None
        return grad_output * (self.mask != 0)


class SoftmaxDiagonalOnly(layers.Softmax):
    def backward(self, grad_output: Array) -> Array:
        return grad_output * self.output * (1 - self.output)


class LogSoftmaxWithoutSum(layers.LogSoftmax):
    def backward(self, grad_output: Array) -> Array:
        return grad_output.copy()


class PadShortcutShifted(layers.PadShortcut):
    def backward(self, grad_output: Array) -> Array:
        return np.roll(super().backward(grad_output), 1, axis=1)


class ResidualForgetsShortcut(layers.Residual):
    def __init__(self) -> None:
        self.branch = layers.Linear(3, 3, rng=RNG(0))
        self.connect((self.branch,), layers.Identity(), layers.Identity())

    def backward(self, grad_output: Array) -> Array:
        return super().backward(grad_output) - grad_output


class LRNForgetsNeighbours(layers.LocalResponseNorm):
    def backward(self, grad_output: Array) -> Array:
        return grad_output * self.forward(self.input) / self.input


class Doubled(Module):
    """A user's layer that answers in float64, whatever it gets."""

    def forward(self, input: Array) -> Array:
        self.factor = np.float64(2.0) * np.ones(1)
        return input * self.factor

    def backward(self, grad_output: Array) -> Array:
        return grad_output * self.factor


class ReLUInPlace(layers.ReLU):
    def forward(self, input: Array) -> Array:
        np.maximum(input, 0, out=input)
        self.output = input
        return input


class LinearHalvesTheOld(layers.Linear):
    def backward(self, grad_output: Array) -> Array:
        self.weight.grad *= 0.5
        return super().backward(grad_output)


class NoReturn(layers.ReLU):
    def backward(self, grad_output: Array) -> Array:
        self.grad = grad_output * (self.output > 0)
        return None  # type: ignore[return-value]


class DropoutDrawsElsewhere(layers.Dropout):
    """Draws from a generator that nobody can put back."""

    def _draw(self, input: Array) -> Array:
        return (np.random.default_rng().random(input.shape) > 0.5) * 2.0


class Remembering(layers.Linear):
    """Its backward uses the first input that it ever saw."""

    def forward(self, input: Array) -> Array:
        output = super().forward(input)
        self.first = self.input = getattr(self, "first", input)
        return output


class CrossEntropyNotAveraged(losses.CrossEntropyLoss):
    def backward(self) -> Array:
        return super().backward() * len(self.saved[0])


class CrossEntropyForgetsTruth(losses.CrossEntropyLoss):
    def backward(self) -> Array:
        return activations.softmax(self.saved[0], -1) / len(self.saved[0])


class NLLWrongSign(losses.NLLLoss):
    def backward(self) -> Array:
        return -super().backward()


class BCEDividedTwice(losses.BCEWithLogitsLoss):
    def backward(self) -> Array:
        return super().backward() / self.saved[0].size


class MSEWithoutTwo(losses.MSELoss):
    def backward(self) -> Array:
        return super().backward() / 2


def shape(*sides: int) -> Array:
    return RNG(7).standard_normal(sides)


def trained_norm(kind: type[layers.BatchNorm2d], training: bool) -> layers.BatchNorm2d:
    """With weights and running statistics that are not those of a new one."""
    layer = kind(3)
    for item in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
        assert item is not None
        item.data = RNG(3).uniform(0.5, 1.5, 3)
    layer.train(training)
    return layer


# (layer with a bug, an input, words of the diagnosis)
LAYER_BUGS: list[tuple[Module, Array, str]] = [
    (ConvFlippedKernel(2, 3, 3, padding=1), shape(2, 2, 5, 4), "turned by 180 degrees"),
    (ConvWrongTranspose(2, 3, 3), shape(2, 2, 5, 4), "Axes are swapped, [0, 1, 3, 2]"),
    (ConvMissingSum(2, 3, 3), shape(2, 2, 5, 4), "the sum over the batch is missing"),
    (ConvPaddingCutWrongly(2, 3, 3, padding=1), shape(2, 2, 5, 4), "padding is cut off at the wrong side"),
    (ConvBiasAveraged(2, 3, 3), shape(2, 2, 5, 4), "the number of images: divided by it once too often"),
    (ConvGroupsMixed(4, 4, 3, groups=2), shape(2, 4, 5, 4), "Only at 2, 3 of axis 1"),
    (LinearTransposed(4, 4), shape(3, 4), "Axes are swapped, [1, 0]"),
    (LinearOverwrites(4, 3), shape(3, 4), "overwrites the gradient of weight"),
    (LinearBiasNotSummed(4, 3), shape(3, 4), "Only the last image counts"),
    (trained_norm(BatchNormMeanConstant, True), shape(3, 3, 4, 3), "the mean is taken for a constant"),
    (trained_norm(BatchNormEvalFormulaInTraining, True), shape(3, 3, 4, 3), "the mean and the variance is taken"),
    (trained_norm(BatchNormTrainingFormulaInEval, False), shape(3, 3, 4, 3), "The formula of training"),
    (trained_norm(BatchNormMovesInEval, False), shape(3, 3, 4, 3), "evaluation mode changes running_mean"),
    (ReLUPassesAll(), shape(3, 4), "the layer's own derivative is missing"),
    (ReLUWritesIntoItsArgument(), shape(3, 4), "writes into its argument"),
    (LeakyReLUForgetsSlope(0.3), shape(3, 4), "Zero where it should not be"),
    (SigmoidDerivativeForgotten(), shape(3, 4), "One factor too few: 1 - output"),
    (TanhWithoutSquare(), shape(3, 4), "One factor too many: output"),
    (MaxPoolSharesAmongAll(2), shape(2, 2, 4, 6), "goes to the wrong pixels"),
    (AvgPoolNotDivided(2), shape(2, 2, 4, 6), "All numbers are 4 times"),
    (AdaptivePoolOnlyFirstPixel(2), shape(2, 2, 4, 6), "some contributions are dropped"),
    (FlattenReadsAcross(), shape(2, 2, 5, 4), "in another order"),
    (DropoutNotScaled(0.4, RNG(0)), shape(6, 7), "All numbers are 0.6 times"),
    (SoftmaxDiagonalOnly(1), shape(3, 4), "every output depends on several"),
    (LogSoftmaxWithoutSum(1), shape(3, 4), "the layer's own derivative is missing"),
    (PadShortcutShifted(2, 2), shape(2, 3, 4, 6), "Moved by 1 along axis 1"),
    (ResidualForgetsShortcut(), shape(3, 3), "(a shortcut?) is missing"),
    (LRNForgetsNeighbours(3, 0.5), shape(2, 4, 4, 5), "As if the layer multiplied by a constant"),
    (Doubled(), shape(3, 4), "float32 into float64"),
    (ReLUInPlace(), shape(3, 4), "forward writes into its input"),
    (LinearHalvesTheOld(4, 3), shape(3, 4), "do not give twice the gradient of weight"),
    (NoReturn(), shape(3, 4), "backward returns NoneType"),
    (DropoutDrawsElsewhere(0.5), shape(3, 4), "two answers for one input"),
    (ReLUPassesAll(), np.zeros((3, 4)), "Nothing could be tested"),
    (Remembering(4, 3), shape(3, 4), "the earlier forward"),
]
TARGETS = np.array([2, 0, 1])
LOSS_BUGS: list[tuple[losses.Loss, Array, Array, str]] = [
    (CrossEntropyNotAveraged(), shape(3, 4), TARGETS, "3 times too large, the number of images"),
    (CrossEntropyForgetsTruth(), shape(3, 4), TARGETS, "(1 / number of images): a constant is forgotten"),
    (NLLWrongSign(), shape(3, 4), TARGETS, "The sign is wrong"),
    (BCEDividedTwice(), shape(3, 4), (shape(3, 4) > 0).astype(float), "12 times too small, the number of values"),
    (MSEWithoutTwo(), shape(3, 4), shape(4, 3).T.copy(), "Half as large"),
]


class NesterovWithoutLookahead(optim.SGD):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        super().update(parameter, memory, {**settings, "nesterov": False})


class MomentumOverwritten(optim.SGD):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        memory.clear()
        super().update(parameter, memory, settings)


class PlainMomentumOverwritten(optim.SGD):
    """Right with Nesterov, wrong without."""

    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        if not settings["nesterov"]:
            memory.clear()
        super().update(parameter, memory, settings)


class SGDFirstStepDamped(optim.SGD):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        memory.setdefault("velocity", np.zeros_like(parameter.data))
        super().update(parameter, memory, settings)


class SGDUpwards(optim.SGD):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        before = parameter.data.copy()
        super().update(parameter, memory, settings)
        parameter.data[...] = 2 * before - parameter.data


class SGDRateTwice(optim.SGD):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        super().update(parameter, memory, {**settings, "learning_rate": settings["learning_rate"] ** 2})


class RMSpropEpsInside(optim.RMSprop):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        gradient = parameter.grad + settings["weight_decay"] * parameter.data
        square = memory.get("square", 0.0) * settings["alpha"] + (1 - settings["alpha"]) * gradient**2
        step = gradient / np.sqrt(square + settings["eps"])
        velocity = settings["momentum"] * memory.get("velocity", 0.0) + step
        memory["square"], memory["velocity"] = square, velocity
        parameter.data -= settings["learning_rate"] * velocity


class AdamWithoutCorrection(optim.Adam):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        (beta1, beta2), gradient = settings["betas"], parameter.grad + settings["weight_decay"] * parameter.data
        memory["mean"] = beta1 * memory.get("mean", 0.0) + (1 - beta1) * gradient
        memory["square"] = beta2 * memory.get("square", 0.0) + (1 - beta2) * gradient**2
        parameter.data -= settings["learning_rate"] * memory["mean"] / (np.sqrt(memory["square"]) + settings["eps"])


class AdamCountsFromTwo(optim.Adam):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        memory.setdefault("step", 1)
        super().update(parameter, memory, settings)


class AdamBetasSwapped(optim.Adam):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        super().update(parameter, memory, {**settings, "betas": settings["betas"][::-1]})


class AdamWCoupled(optim.AdamW):
    decoupled = False


class AdamWDecayAdds(optim.AdamW):
    def update(self, parameter: Parameter, memory: dict[str, Any], settings: dict[str, Any]) -> None:
        super().update(parameter, memory, {**settings, "weight_decay": -settings["weight_decay"]})


OPTIMIZER_BUGS: list[tuple[type[optim.Optimizer], str]] = [
    (NesterovWithoutLookahead, "Nesterov without looking ahead"),
    (MomentumOverwritten, "The velocity is overwritten"),
    (PlainMomentumOverwritten, "The velocity is overwritten"),
    (SGDFirstStepDamped, "Dampening is applied to the first step"),
    (SGDUpwards, "goes up the slope"),
    (SGDRateTwice, "The learning rate is applied twice"),
    (RMSpropEpsInside, "eps stands inside the root"),
    (AdamWithoutCorrection, "Bias correction is missing"),
    (AdamCountsFromTwo, "counted from 2"),
    (AdamBetasSwapped, "beta1 and beta2 are swapped"),
    (AdamWCoupled, "passes through the moments"),
    (AdamWDecayAdds, "wrong sign"),
]


def clip_each_alone(parameters: list[Parameter], max_norm: float) -> float:
    """A wrong clip_grad_norm: every gradient by its own norm, which turns the step."""
    norms = [math.sqrt(float(np.square(parameter.grad).sum())) for parameter in parameters]
    for parameter, norm in zip(parameters, norms, strict=True):
        parameter.grad *= min(1.0, max_norm / (norm + 1e-6))
    return math.hypot(*norms)
