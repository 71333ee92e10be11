"""The same batches from memory and from workers; every sample once per epoch."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from convcraft.config import AugmentConfig
from convcraft.data.augment import Augmenter
from convcraft.data.image_set import ImageSet
from convcraft.data.loader import EpochPlan, eval_batches, train_batches
from convcraft.data.preprocess import Preprocess
from convcraft.data.sample import Sample
from convcraft.errors import UserError

CONTRACT = Preprocess(
    height=12, width=10, channels=3, resize="crop", interpolation="bilinear", crop_fraction=1.0,
    mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3),
)  # fmt: skip
CHANGES = AugmentConfig(rotation_degrees=20.0, horizontal_flip=True, brightness=0.2, contrast=0.3, mixup_alpha=0.3)


def png(seed: int) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 15, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def in_memory() -> ImageSet:
    return ImageSet.build([Sample(png(i), i % 4, f"{i}.png") for i in range(37)], CONTRACT, memory_bytes=1 << 30)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 500), st.integers(1, 64), st.integers(1, 5), st.integers(0, 3))
def test_plan_visits_every_sample_once_in_even_batches(samples: int, batch: int, accumulation: int, epoch: int) -> None:
    plan = EpochPlan.draw(0, epoch, samples, batch, accumulation)
    assert sorted(np.concatenate(plan.passes_from(0))) == list(range(samples))
    assert len(plan.steps) == -(-samples // (batch * accumulation))
    sizes = [len(ids) for ids in plan.passes_from(0)]
    assert max(sizes) <= batch
    if samples >= batch * accumulation > 1:
        assert min(sizes) * 2 >= min(max(sizes), 2)  # nothing tiny is left over


def test_going_on_in_the_middle_gives_the_rest_of_the_epoch() -> None:
    plan = EpochPlan.draw(0, 0, 100, 8, 2)
    whole, rest = plan.passes_from(0), plan.passes_from(3)
    assert len(rest) == len(whole) - 6
    for left, right in zip(whole[6:], rest, strict=True):
        np.testing.assert_array_equal(left, right)


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_streaming_gives_the_same_batches_as_memory(in_memory: ImageSet, num_workers: int) -> None:
    augmenter = Augmenter(CHANGES, CONTRACT, 4, seed=3)
    streamed = replace(in_memory, pixels=None)
    passes = EpochPlan.draw(3, 2, len(in_memory), 8, 1).passes_from(0)
    expected = list(train_batches(in_memory, augmenter, passes, 2, 0))
    received = list(train_batches(streamed, augmenter, passes, 2, num_workers))
    assert len(received) == len(expected) == 5
    for left, right in zip(expected, received, strict=True):
        assert torch.equal(left.images, right.images)
        assert torch.equal(left.targets, right.targets)
        np.testing.assert_array_equal(left.ids, right.ids)
    for left, right in zip(eval_batches(in_memory, 16), eval_batches(streamed, 16, num_workers), strict=True):
        assert torch.equal(left.images, right.images)


def test_eval_images_are_the_contracts_bit_for_bit(in_memory: ImageSet) -> None:
    batch = next(iter(eval_batches(in_memory, 37)))
    for index in (0, 17, 36):
        np.testing.assert_array_equal(batch.images[index].numpy(), CONTRACT(png(index)))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_file_that_goes_bad_later_is_named(num_workers: int) -> None:
    images = ImageSet([Sample(b"no image", 0, "cats/7.png")], np.zeros(1, np.int64), CONTRACT, None)
    with pytest.raises(UserError, match=r"^cats/7\.png"):
        list(eval_batches(images, 1, num_workers))
    augmenter = Augmenter(CHANGES, CONTRACT, 4, seed=3)
    with pytest.raises(UserError, match=r"^cats/7\.png"):
        list(train_batches(images, augmenter, [np.zeros(1, np.int64)], 0, num_workers))
