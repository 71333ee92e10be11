"""Draws depend on seed, epoch and sample, on nothing else, and are uniform."""

from __future__ import annotations

import numpy as np

from convcraft.data.draws import epoch_order, uniforms

IDS = np.arange(20_000)


def test_draws_do_not_depend_on_batch_order_or_number() -> None:
    whole = uniforms(3, 5, IDS, 8)
    shuffled = np.random.default_rng(0).permutation(IDS)
    np.testing.assert_array_equal(uniforms(3, 5, shuffled, 8), whole[shuffled])
    np.testing.assert_array_equal(uniforms(3, 5, IDS[7:9], 3), whole[7:9, :3])


def test_draws_are_uniform_and_uncorrelated() -> None:
    draws = uniforms(0, 0, IDS, 6)
    assert draws.min() >= 0
    assert draws.max() < 1
    for column in draws.T:
        counts, _ = np.histogram(column, bins=20, range=(0, 1))
        chi_square = ((counts - 1000) ** 2 / 1000).sum()
        assert chi_square < 43.8  # 0.1 % point of 19 degrees of freedom
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    between = np.corrcoef(draws.T) - np.eye(6)
    assert abs(neighbours) < 0.03
    assert np.abs(between).max() < 0.03


def test_seed_and_epoch_change_everything() -> None:
    base = uniforms(0, 0, IDS, 1)[:, 0]
    for other in (uniforms(1, 0, IDS, 1), uniforms(0, 1, IDS, 1)):
        assert abs(np.corrcoef(base, other[:, 0])[0, 1]) < 0.03


def test_epoch_order_is_a_permutation_of_its_own() -> None:
    first, second = epoch_order(0, 0, 1000), epoch_order(0, 1, 1000)
    assert sorted(first) == list(range(1000))
    assert (first != second).any()
    np.testing.assert_array_equal(first, epoch_order(0, 0, 1000))
