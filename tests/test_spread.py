"""A few of many positions: first and last among them, all distinct, gaps that differ by one at most."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from convcraft.data.spread import spread


@given(st.integers(2, 100_000), st.integers(2, 3_000))
def test_ends_count_and_gaps(number: int, most: int) -> None:
    places = spread(number, most)
    assert places.dtype == np.int64
    assert len(places) == min(number, most)
    assert (places[0], places[-1]) == (0, number - 1)
    gaps = np.diff(places)
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_the_ends_of_its_range() -> None:
    assert spread(10, 4).tolist() == [0, 3, 6, 9]
    assert spread(3, 8).tolist() == [0, 1, 2]
    assert spread(9, 1).tolist() == [0]
    assert spread(0, 5).tolist() == []
