"""A network that works on both halves of a batch at once, each from the first layer to the last in its own thread.

Threads over chunks of one layer meet after every layer, and between two operations each must have Python's lock; in a
small network that costs more than it brings. Two copies of the network that share their weights meet twice in a step:
before the loss, and when their gradients are added. That is gradient accumulation, and exact, for networks in which an
image's output does not depend on the others of its batch.
"""

from __future__ import annotations

import copy

import numpy as np

from convcraft.scratch.checks import Array, refuse
from convcraft.scratch.layers import BatchNorm2d, Dropout
from convcraft.scratch.module import Module
from convcraft.scratch.parallel import over_images


def can_be_halved(network: Module) -> bool:
    """No batch norm, which looks at the whole batch, and no dropout, whose draws depend on which half is first."""
    return not any(
        isinstance(module, BatchNorm2d) or (isinstance(module, Dropout) and module.p > 0)
        for module in network.modules()
    )


class Halves:
    """Forward and backward of a network by halves of the batch; its parameters and their gradients stay the network's.

    The halves are the same whatever the number of threads (`parallel.use_threads`), so the numbers are, too.

    Raises:
        ValueError: batch norm, or dropout that drops.
    """

    def __init__(self, network: Module) -> None:
        if not can_be_halved(network):
            raise refuse("a network with batch norm or dropout", "one without", "Use the network itself.")
        self.network, self.twin = network, copy.deepcopy(network)

    def __call__(self, input: Array) -> Array:
        """[B, ...] -> what the network gives, [B, ...]."""
        for own, other in zip(self.network.parameters(), self.twin.parameters(), strict=True):
            other.data = own.data  # the same memory
        self.twin.train(self.network.training)
        self.size = -(-len(input) // 2)
        return np.concatenate(over_images(lambda images: self._half(images)(input[images]), len(input), self.size))

    def backward(self, grad_output: Array) -> Array:
        """As the network's: adds to the gradients of its parameters, returns that of the input."""
        grads = over_images(
            lambda images: self._half(images).backward(grad_output[images]), len(grad_output), self.size
        )
        for own, other in zip(self.network.parameters(), self.twin.parameters(), strict=True):
            own.grad += other.grad
            other.grad.fill(0)
        return np.concatenate(grads)

    def _half(self, images: slice) -> Module:
        return self.network if images.start == 0 else self.twin


def in_halves(network: Module) -> Halves | Module:
    """What to send batches through: the network by halves where it can be, else itself."""
    return Halves(network) if can_be_halved(network) else network
