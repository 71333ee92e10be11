"""Sensitive layers are given back to floating point until an int8 network passes its gate, or it is rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from convcraft.deploy.formats.form import Quantise


class Verdict(Protocol):
    """What a judge says; `gate.VariantJudged` is one."""

    @property
    def passed(self) -> bool: ...


Judged = TypeVar("Judged", bound=Verdict)
Judge = Callable[[dict[str, bytes]], Judged]


@dataclass(frozen=True, eq=False)
class Repaired(Generic[Judged]):
    """files: that passed, or where nothing did those of the first try, all in int8. kept: layers in floating point.

    verdict: on these files. tried: how many layers each try gave back, in order.
    """

    files: dict[str, bytes]
    kept: tuple[str, ...]
    verdict: Judged
    tried: tuple[int, ...]


def repair(
    quantise: Quantise, ranked: Callable[[], Sequence[str]], judge: Judge[Judged], largest_share: float = 0.5
) -> Repaired[Judged]:
    """Give back no layer, one, two, four ... of the most sensitive ones until the judge passes; then fewer, if they do.

    Args:
        ranked: layers, the most sensitive first; asked for where the first try fails.
        largest_share: of the layers; a network of which more must stay as it was gains little.
    """
    first = _Try(quantise, judge, ())
    if first.verdict.passed:
        return first.repaired((0,))
    layers = list(ranked())
    tried, failed, found = [0], 0, None
    for number in _doubling(int(largest_share * len(layers))):
        attempt = _Try(quantise, judge, layers[:number])
        tried.append(number)
        if attempt.verdict.passed:
            found = attempt
            break
        failed = number
    if found is None:
        return first.repaired(tried)
    while len(found.kept) - failed > 1:
        middle = (len(found.kept) + failed) // 2
        attempt = _Try(quantise, judge, layers[:middle])
        tried.append(middle)
        if attempt.verdict.passed:
            found = attempt
        else:
            failed = middle
    return found.repaired(tried)


def _doubling(most: int) -> Iterator[int]:
    """1, 2, 4 ... and `most` at last."""
    number = 1
    while number < most:
        yield number
        number *= 2
    if most >= 1:
        yield most


class _Try(Generic[Judged]):
    """One choice of layers, made and judged."""

    def __init__(self, quantise: Quantise, judge: Judge[Judged], kept: Sequence[str]) -> None:
        self.kept = tuple(kept)
        self.files = quantise(kept)
        self.verdict = judge(self.files)

    def repaired(self, tried: Sequence[int]) -> Repaired[Judged]:
        return Repaired(self.files, self.kept, self.verdict, tuple(tried))
