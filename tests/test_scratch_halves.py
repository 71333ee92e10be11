"""Both halves of a batch at once: the gradients of the whole batch, and the same bits for any number of threads."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from convcraft.scratch import parallel
from convcraft.scratch.checks import Array
from convcraft.scratch.halves import Halves, can_be_halved
from convcraft.scratch.losses import CrossEntropyLoss
from convcraft.scratch.module import Module
from convcraft.scratch.networks.lenet import LeNet5
from convcraft.scratch.networks.resnet_cifar import ResNetCifar
from convcraft.scratch.networks.seed_cnn import SeedCNN


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    yield
    parallel.use_threads(1)


def network(kind: type[LeNet5] | type[SeedCNN], dtype: type = np.float64) -> Module:
    return kind(rng=np.random.default_rng(0)).astype(dtype)


def learned(works: Halves | Module, own: Module, images: Array, labels: Array) -> list[Array]:
    """Logits, input gradient and parameter gradients of one pass."""
    criterion = CrossEntropyLoss()
    own.zero_grad()
    logits = works(images)
    criterion(logits, labels)
    return [logits, works.backward(criterion.backward()), *(parameter.grad.copy() for parameter in own.parameters())]


def batch(size: int, dtype: type = np.float64) -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((size, 1, 28, 28)).astype(dtype), rng.integers(0, 10, size)


@pytest.mark.parametrize("size", [1, 2, 7, 64])
@pytest.mark.parametrize("kind", [LeNet5, SeedCNN])
def test_the_gradients_are_those_of_the_whole_batch(kind: type[LeNet5] | type[SeedCNN], size: int) -> None:
    parallel.use_threads(2)
    whole, halved = network(kind), network(kind)
    images, labels = batch(size)
    expected = learned(whole, whole, images, labels)
    found = learned(Halves(halved), halved, images, labels)
    assert all(np.abs(a - b).max() <= 1e-12 for a, b in zip(found, expected, strict=True))


def test_threads_change_no_bit() -> None:
    images, labels = batch(33, np.float32)
    found = []
    for threads in (1, 2, 3):
        parallel.use_threads(threads)
        parallel.set_blas_threads(1)
        own = network(SeedCNN, np.float32)
        found.append(learned(Halves(own), own, images, labels))
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_new_weights_and_modes_reach_both_halves() -> None:
    own = network(LeNet5)
    halves, (images, _) = Halves(own), batch(4)
    halves(images)
    own.load_state_dict({name: 2 * array for name, array in own.state_dict().items()})
    assert np.allclose(halves(images), own(images), atol=1e-12)
    own.eval()
    halves(images)
    assert not any(module.training for module in halves.twin.modules())


def test_what_looks_at_the_whole_batch_is_refused() -> None:
    assert not can_be_halved(ResNetCifar(depth=8))
    assert not can_be_halved(LeNet5(dropout=0.3))
    assert can_be_halved(LeNet5())
    with pytest.raises(ValueError, match="batch norm or dropout"):
        Halves(ResNetCifar(depth=8))
