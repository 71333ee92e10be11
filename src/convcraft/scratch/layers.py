"""Layers: the operations with what they learn and what they remember between forward and backward.

Each layer's arithmetic stands in the operation's file (`convolution`, `pooling`, ...); here is its state. Constructors
have torch's argument names, order and defaults; start values are torch's (`initialise.torch_default`), drawn from the
`rng` that is passed, float32 until `astype`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from convcraft.scratch import activations, convolution, normalisation, pooling
from convcraft.scratch.checks import Array, Pair, as_pair, check_axes, refuse
from convcraft.scratch.linear import linear, linear_backward
from convcraft.scratch.module import Buffer, Module, Parameter

Rng = np.random.Generator


class Conv2d(Module):
    """`convolution.conv2d`: [B, in_channels, H, W] -> [B, out_channels, oH, oW].

    Attributes:
        weight: [out_channels, in_channels / groups, kernel height, kernel width].
        bias: [out_channels], or None.
        need_input_grad: False for the first layer of a network, whose input nobody wants to change: its backward then
            saves a third of its work and returns an empty array.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: int | Pair | str = 0,
        dilation: int | Pair = 1,
        groups: int = 1,
        bias: bool = True,
        rng: Rng | None = None,
    ) -> None:
        kernel = as_pair("kernel_size", kernel_size, 1)
        if groups < 1 or in_channels % groups or out_channels % groups:
            received = f"groups={groups} for {in_channels} -> {out_channels} channels"
            raise refuse(received, "a number that divides both", "Depthwise is groups=in_channels.")
        self.settings: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.need_input_grad = True
        self.weight = Parameter(start_value((out_channels, in_channels // groups, *kernel), rng := _generator(rng)))
        fan_in = in_channels // groups * math.prod(kernel)
        self.bias = Parameter(start_value((out_channels,), rng, fan_in)) if bias else None

    def forward(self, input: Array) -> Array:
        output, self.saved = convolution.conv2d_forward(input, self.weight.data, _data(self.bias), **self.settings)
        return output

    def backward(self, grad_output: Array) -> Array:
        grad_input, grad_weight, grad_bias = convolution.conv2d_backward(grad_output, self.saved, self.need_input_grad)
        self.weight.grad += grad_weight
        if self.bias is not None:
            self.bias.grad += grad_bias
        return np.empty(0, grad_output.dtype) if grad_input is None else grad_input


class Linear(Module):
    """`linear.linear`: [..., in_features] -> [..., out_features].

    Attributes:
        weight: [out_features, in_features].
        bias: [out_features], or None.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True, rng: Rng | None = None) -> None:
        self.weight = Parameter(start_value((out_features, in_features), rng := _generator(rng)))
        self.bias = Parameter(start_value((out_features,), rng, in_features)) if bias else None

    def forward(self, input: Array) -> Array:
        self.input = input
        return linear(input, self.weight.data, _data(self.bias))

    def backward(self, grad_output: Array) -> Array:
        grad_input, grad_weight, grad_bias = linear_backward(grad_output, self.input, self.weight.data)
        self.weight.grad += grad_weight
        if self.bias is not None:
            self.bias.grad += grad_bias
        return grad_input


class BatchNorm2d(Module):
    """`normalisation.batch_norm` of [B, C, H, W].

    Attributes:
        weight, bias: [C], or None without `affine`.
        running_mean, running_var: [C], what evaluation normalises with; None without `track_running_stats`.
        num_batches_tracked: how many batches training has seen.
        frozen: in training, too, use the running statistics and leave them alone (fine-tuning of few images).
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        self.eps, self.momentum, self.frozen = eps, momentum, False
        self.weight = Parameter(np.ones(num_features, np.float32)) if affine else None
        self.bias = Parameter(np.zeros(num_features, np.float32)) if affine else None
        self.running_mean = Buffer(np.zeros(num_features, np.float32)) if track_running_stats else None
        self.running_var = Buffer(np.ones(num_features, np.float32)) if track_running_stats else None
        self.num_batches_tracked = Buffer(np.array(0, np.int64)) if track_running_stats else None

    def forward(self, input: Array) -> Array:
        check_axes("input", input, "BCHW")
        of_batch = self.running_mean is None or (self.training and not self.frozen)
        momentum = self._count_batch() if of_batch else 0.0
        output, self.saved = normalisation.batch_norm_forward(
            input,
            _data(self.running_mean),
            _data(self.running_var),
            _data(self.weight),
            _data(self.bias),
            training=of_batch,
            momentum=momentum,
            eps=self.eps,
        )
        return output

    def backward(self, grad_output: Array) -> Array:
        grad_input, grad_weight, grad_bias = normalisation.batch_norm_backward(grad_output, self.saved)
        if self.weight is not None and self.bias is not None:
            self.weight.grad += grad_weight
            self.bias.grad += grad_bias
        return grad_input

    def _count_batch(self) -> float:
        """The momentum of this batch; None means the plain mean of all batches so far."""
        if self.num_batches_tracked is None:
            return 0.0
        self.num_batches_tracked.data += 1
        return 1.0 / float(self.num_batches_tracked.data) if self.momentum is None else self.momentum


class LocalResponseNorm(Module):
    """`normalisation.local_response_norm` of [B, C, H, W]."""

    def __init__(self, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> None:
        self.settings: dict[str, Any] = {"size": size, "alpha": alpha, "beta": beta, "k": k}

    def forward(self, input: Array) -> Array:
        self.input = input
        return normalisation.local_response_norm(input, **self.settings)

    def backward(self, grad_output: Array) -> Array:
        return normalisation.local_response_norm_backward(grad_output, self.input, **self.settings)


class ReLU(Module):
    """max(input, 0), any shape."""

    def forward(self, input: Array) -> Array:
        self.output = activations.relu(input)
        return self.output

    def backward(self, grad_output: Array) -> Array:
        return activations.relu_backward(grad_output, self.output)


class LeakyReLU(Module):
    """input where positive, else negative_slope * input; any shape."""

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = negative_slope

    def forward(self, input: Array) -> Array:
        self.input = input
        return activations.leaky_relu(input, self.negative_slope)

    def backward(self, grad_output: Array) -> Array:
        return activations.leaky_relu_backward(grad_output, self.input, self.negative_slope)


class Sigmoid(Module):
    """1 / (1 + exp(-input)), any shape."""

    def forward(self, input: Array) -> Array:
        self.output = activations.sigmoid(input)
        return self.output

    def backward(self, grad_output: Array) -> Array:
        return activations.sigmoid_backward(grad_output, self.output)


class Tanh(Module):
    """tanh(input), any shape."""

    def forward(self, input: Array) -> Array:
        self.output = activations.tanh(input)
        return self.output

    def backward(self, grad_output: Array) -> Array:
        return activations.tanh_backward(grad_output, self.output)


class Softmax(Module):
    """Probabilities along `dim`. Not before CrossEntropyLoss, which has its own."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, input: Array) -> Array:
        self.output = activations.softmax(input, self.dim)
        return self.output

    def backward(self, grad_output: Array) -> Array:
        return activations.softmax_backward(grad_output, self.output, self.dim)


class LogSoftmax(Module):
    """Log-probabilities along `dim`, for NLLLoss."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def forward(self, input: Array) -> Array:
        self.output = activations.log_softmax(input, self.dim)
        return self.output

    def backward(self, grad_output: Array) -> Array:
        return activations.log_softmax_backward(grad_output, self.output, self.dim)


class MaxPool2d(Module):
    """`pooling.max_pool2d`: [B, C, H, W] -> [B, C, oH, oW]."""

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
    ) -> None:
        self.settings: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "dilation": dilation,
            "ceil_mode": ceil_mode,
        }

    def forward(self, input: Array) -> Array:
        output, self.saved = pooling.max_pool2d_forward(input, **self.settings)
        return output

    def backward(self, grad_output: Array) -> Array:
        return pooling.max_pool2d_backward(grad_output, self.saved)


class AvgPool2d(Module):
    """`pooling.avg_pool2d`: [B, C, H, W] -> [B, C, oH, oW]."""

    def __init__(
        self,
        kernel_size: int | Pair,
        stride: int | Pair | None = None,
        padding: int | Pair = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        self.settings: dict[str, Any] = {
            "kernel_size": kernel_size,
            "stride": stride,
            "padding": padding,
            "ceil_mode": ceil_mode,
            "count_include_pad": count_include_pad,
            "divisor_override": divisor_override,
        }

    def forward(self, input: Array) -> Array:
        output, self.saved = pooling.avg_pool2d_forward(input, **self.settings)
        return output

    def backward(self, grad_output: Array) -> Array:
        return pooling.avg_pool2d_backward(grad_output, self.saved)


class AdaptiveAvgPool2d(Module):
    """`pooling.adaptive_avg_pool2d`: [B, C, H, W] -> [B, C, *output_size]; 1 is global average pooling."""

    def __init__(self, output_size: int | Pair) -> None:
        self.output_size = output_size

    def forward(self, input: Array) -> Array:
        output = pooling.adaptive_avg_pool2d(input, self.output_size)
        self.input_size: Pair = (input.shape[2], input.shape[3])
        return output

    def backward(self, grad_output: Array) -> Array:
        return pooling.adaptive_avg_pool2d_backward(grad_output, self.input_size)


class Flatten(Module):
    """[B, C, H, W] -> [B, C * H * W]: one row per image, whatever the sizes (a view(-1, n) may mix images).

    Args:
        channels_last: flatten in Keras's order, row, column, channel, so that its dense weights fit.
    """

    def __init__(self, channels_last: bool = False) -> None:
        self.channels_last = channels_last

    def forward(self, input: Array) -> Array:
        if input.ndim < 2:
            raise refuse(f"input {list(input.shape)}", "[B, ...]", "Add the batch axis: input[None].")
        maps = np.moveaxis(input, 1, -1) if self.channels_last else input
        self.shape = maps.shape
        return maps.reshape(len(input), -1)

    def backward(self, grad_output: Array) -> Array:
        maps = grad_output.reshape(self.shape)
        return np.moveaxis(maps, -1, 1) if self.channels_last else maps


class Dropout(Module):
    """In training each number is 0 with probability p, the others are divided by 1 - p, so that the mean stays.

    Srivastava et al. 2014. In evaluation nothing happens.

    Attributes:
        mask: what the last training forward multiplied with, 0 or 1 / (1 - p); shape of the input.
        next_mask: set this to use a mask of your own in the next training forward (tests, demonstrations).
    """

    def __init__(self, p: float = 0.5, rng: Rng | None = None) -> None:
        if not 0.0 <= p < 1.0:
            raise refuse(f"p={p}", "0 to less than 1", "0.5 is usual.")
        self.p, self.rng = p, _generator(rng)
        self.mask: Array | None = None
        self.next_mask: Array | None = None

    def forward(self, input: Array) -> Array:
        self.mask = self._draw(input) if self.training and (self.p > 0 or self.next_mask is not None) else None
        return input if self.mask is None else input * self.mask

    def backward(self, grad_output: Array) -> Array:
        return grad_output if self.mask is None else grad_output * self.mask

    def _draw(self, input: Array) -> Array:
        given, self.next_mask = self.next_mask, None
        if given is not None:
            return given.astype(input.dtype)
        kept = self.rng.random(input.shape, dtype=np.float32) >= self.p
        return kept.astype(input.dtype) / input.dtype.type(1 - self.p)


class Identity(Module):
    """Nothing: a place where another layer may stand."""

    def forward(self, input: Array) -> Array:
        return input

    def backward(self, grad_output: Array) -> Array:
        return grad_output


class PadShortcut(Module):
    """The shortcut without parameters: every `stride`-th pixel, and zero maps added, half before and half behind.

    [B, C, H, W] -> [B, C + new_channels, ceil(H / stride), ceil(W / stride)]. He et al. 2016, option A.
    """

    def __init__(self, stride: int, new_channels: int) -> None:
        self.stride, self.new_channels = stride, new_channels

    def forward(self, input: Array) -> Array:
        self.shape, self.first = input.shape, self.new_channels // 2
        picked = input[:, :, :: self.stride, :: self.stride]
        batch, channels, height, width = picked.shape
        output = pooling.full_like(input, (batch, channels + self.new_channels, height, width), 0.0)
        output[:, self.first : self.first + channels] = picked
        return output

    def backward(self, grad_output: Array) -> Array:
        grad_input = pooling.full_like(grad_output, self.shape, 0.0)
        picked = grad_output[:, self.first : self.first + self.shape[1]]
        grad_input[:, :, :: self.stride, :: self.stride] = picked
        return grad_input


class Residual(Module):
    """activation(branch(x) + shortcut(x)): what a block has to learn is only the difference to its input.

    A sum passes its gradient to both sides unchanged, so through the shortcut the gradient reaches every earlier layer
    undiminished: that is why deep residual networks train. He et al. 2016, arXiv 1512.03385, eq. 1 and 2.

    A subclass assigns its layers under the names it wants and says which way each goes with `connect`.
    """

    def connect(self, branch: tuple[Module, ...], shortcut: Module, activation: Module) -> None:
        self.ways = (branch, shortcut, activation)  # a tuple, so that no layer gets a second name

    def forward(self, input: Array) -> Array:
        branch, shortcut, activation = self.ways
        output = input
        for layer in branch:
            output = layer(output)
        return activation(output + shortcut(input))

    def backward(self, grad_output: Array) -> Array:
        branch, shortcut, activation = self.ways
        grad_sum = activation.backward(grad_output)
        grad_branch = grad_sum
        for layer in reversed(branch):
            grad_branch = layer.backward(grad_branch)
        return grad_branch + shortcut.backward(grad_sum)


def start_value(shape: tuple[int, ...], rng: Rng, fan_in: int | None = None) -> Array:
    """U(-a, a), a = 1 / sqrt(fan_in), float32: torch's start of convolutions and linear layers, weights and biases.

    torch calls it kaiming_uniform with a=sqrt(5); its variance is 1 / (3 fan_in), a sixth of He's.
    """
    bound = 1 / math.sqrt(fan_in if fan_in is not None else math.prod(shape[1:]))
    return rng.uniform(-bound, bound, shape).astype(np.float32)


def _data(item: Parameter | Buffer | None) -> Array | None:
    return None if item is None else item.data


def _generator(rng: Rng | None) -> Rng:
    return np.random.default_rng() if rng is None else rng
