"""Class order: numbers as numbers, letters without case, and one order whatever the input order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from convcraft.data.natural_sort import natural_key, natural_sorted


def test_numbers_sort_as_numbers() -> None:
    assert natural_sorted(["10", "1", "2", "class 10", "class 9", "class 1b"]) == [
        *("1", "2", "10"),
        *("class 1b", "class 9", "class 10"),
    ]


def test_case_is_ignored_but_breaks_ties() -> None:
    assert natural_sorted(["b", "A", "a", "B", "C"]) == ["A", "a", "B", "b", "C"]
    assert natural_sorted(["a01", "a1", "a001"]) == natural_sorted(["a1", "a001", "a01"])


def test_leading_zeros_do_not_count() -> None:
    assert natural_sorted(["010", "2", "01", "0"]) == ["0", "01", "2", "010"]


def test_other_scripts() -> None:
    assert natural_sorted(["猫10", "猫2", "犬1"]) == ["犬1", "猫2", "猫10"]
    assert natural_sorted(["٢", "١٠", "١"]) == ["١", "٢", "١٠"]  # Arabic digits 2, 10, 1
    composed, decomposed = "\u00e91", "e\u03011"  # the same to the eye; file systems differ in which one they store
    assert natural_key(composed)[0] == natural_key(decomposed)[0]
    assert natural_sorted(["x²", "x1"]) == ["x1", "x²"]  # a superscript is no decimal digit


def test_very_long_numbers() -> None:
    assert natural_sorted(["9" * 5000, "1" + "0" * 5000, "7"]) == ["7", "9" * 5000, "1" + "0" * 5000]


@given(st.lists(st.text(max_size=8), unique=True), st.randoms())
def test_order_does_not_depend_on_the_input_order(names: list[str], random: object) -> None:
    expected = natural_sorted(names)
    shuffled = list(names)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert natural_sorted(shuffled) == expected
    assert sorted(expected) == sorted(names)


@given(st.lists(st.integers(min_value=0), unique=True))
def test_plain_numbers_agree_with_their_values(numbers: list[int]) -> None:
    assert natural_sorted(map(str, numbers)) == [str(number) for number in sorted(numbers)]
