"""Layers are given back until the judge passes, and no more of them than it takes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import pytest

from convcraft.deploy.compress.repair import repair

LAYERS = [f"layer{number}" for number in range(20)]


@dataclass(frozen=True)
class Answer:
    passed: bool


def attempt(needed: int, tries: list[int]) -> tuple[int, bool, tuple[int, ...]]:
    """(layers kept, passed, tried) of a network that passes with the first `needed` layers in floating point."""

    def quantise(kept: Collection[str]) -> dict[str, bytes]:
        tries.append(len(kept))
        return {"kept": ",".join(kept).encode()}

    def judge(files: dict[str, bytes]) -> Answer:
        return Answer(set(LAYERS[:needed]) <= set(files["kept"].decode().split(",")) or needed == 0)

    found = repair(quantise, lambda: LAYERS, judge)
    assert list(found.tried) == tries
    return len(found.kept), found.verdict.passed, found.tried


@pytest.mark.parametrize("needed", range(11))
def test_the_fewest_layers_that_do(needed: int) -> None:
    kept, passed, tried = attempt(needed, [])
    assert (kept, passed) == (needed, True)
    assert len(tried) <= 8


def test_what_half_of_the_layers_cannot_mend_is_rejected() -> None:
    kept, passed, tried = attempt(11, [])
    assert (kept, passed) == (0, False)
    assert tried == (0, 1, 2, 4, 8, 10)


def test_layers_are_ranked_only_where_they_are_needed() -> None:
    def unneeded() -> list[str]:
        raise AssertionError

    assert repair(lambda _kept: {}, unneeded, lambda _files: Answer(True)).kept == ()
