"""Threads over chunks of images: the same numbers bit for bit, and BLAS put back as it was."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

from convcraft.scratch import parallel
from convcraft.scratch.losses import CrossEntropyLoss
from convcraft.scratch.networks.resnet_cifar import ResNetCifar


@pytest.fixture(autouse=True)
def one_thread_afterwards() -> Iterator[None]:
    yield
    parallel.use_threads(1)


def test_results_come_in_the_order_of_the_images() -> None:
    for threads in (1, 3):
        parallel.use_threads(threads)
        assert parallel.over_images(lambda images: images, 10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_chunks_really_run_in_threads() -> None:
    parallel.use_threads(2)
    barrier = threading.Barrier(2, timeout=10)  # passes only when two are under way at once
    parallel.over_images(lambda images: barrier.wait(), 2, 1)


def test_an_error_in_a_chunk_reaches_the_caller() -> None:
    parallel.use_threads(2)

    def fails(images: slice) -> None:
        raise FloatingPointError(f"in image {images.start}")

    with pytest.raises(FloatingPointError, match="in image 0"):
        parallel.over_images(fails, 4, 2)


def test_threads_change_no_bit_of_a_training_step() -> None:
    images = np.random.default_rng(0).standard_normal((24, 3, 16, 16)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 10, 24)
    found = []
    for threads in (1, 2, 3):
        parallel.use_threads(threads)
        parallel.set_blas_threads(1)
        network, criterion = ResNetCifar(depth=8, rng=np.random.default_rng(2)), CrossEntropyLoss()
        loss = criterion(network(images), labels)
        network.backward(criterion.backward())
        found.append([loss, *(parameter.grad for parameter in network.parameters())])
    for other in found[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_blas_gets_one_thread_and_then_its_own_back() -> None:
    before = parallel.blas_threads()
    if before is None:
        assert parallel.use_threads(2) is False
        pytest.skip("NumPy's BLAS is not OpenBLAS")
    parallel.set_blas_threads(2)
    assert parallel.use_threads(2) is True
    assert parallel.blas_threads() == 1
    parallel.use_threads(3)
    parallel.use_threads(1)
    assert parallel.blas_threads() == 2
    parallel.set_blas_threads(before)


def test_less_than_one_thread_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        parallel.use_threads(0)


def test_a_chunk_holds_at_least_one_image() -> None:
    assert parallel.images_per_chunk(10 * parallel.CHUNK_BYTES) == 1
    assert parallel.images_per_chunk(parallel.CHUNK_BYTES // 8) == 8
