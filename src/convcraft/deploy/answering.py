"""Pictures through a network to answers, the same way for a run and for a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from convcraft.data.given_pictures import read_pictures
from convcraft.data.preprocess import ImageLike, Preprocess
from convcraft.errors import UserError
from convcraft.evaluation.answers import ImagePrediction, answers_of
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.trust import Trust


class Answering(Protocol):
    """A network with what its answers need.

    batch_size: pictures that go through it at once. loss: that it was trained by. trust: None: not calibrated.
    """

    batch_size: int

    @property
    def preprocess(self) -> Preprocess: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def loss(self) -> str: ...
    @property
    def trust(self) -> Trust | None: ...

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Of at most `batch_size` images uint8 [B, H, W, C]; with features where the trust needs them."""
        ...


def answer_pictures(
    network: Answering, named: Iterable[tuple[str, ImageLike]], batch_size: int | None = None
) -> Iterator[ImagePrediction]:
    """One answer per picture, in order, batch by batch.

    A picture that cannot be read gets an answer with its problem, and does not disturb the others.

    Args:
        named: (name, picture): a file, its encoded bytes, or pixels uint8 [H, W] or [H, W, 3].
        batch_size: pictures that are waited for; None: the network's. 1 where each comes in its own time.

    Raises:
        UserError: from `named`, once what came before it is answered; or from the network.
    """
    for part in _batches(named, batch_size or network.batch_size):
        pixels, problems = read_pictures(part, network.preprocess)
        names = [name for (name, _), problem in zip(part, problems, strict=True) if problem is None]
        readable: Iterator[ImagePrediction] = iter(())
        if names:
            readable = iter(answers_of(names, network.outputs(pixels), network.trust, network.classes, network.loss))
        for (name, _), problem in zip(part, problems, strict=True):
            yield next(readable) if problem is None else ImagePrediction(name, (), problem)


def _batches(named: Iterable[tuple[str, ImageLike]], batch_size: int) -> Iterator[list[tuple[str, ImageLike]]]:
    """Pictures by the batch; those that came before an error go first."""
    part: list[tuple[str, ImageLike]] = []
    try:
        for one in named:
            part.append(one)
            if len(part) == batch_size:
                yield part
                part = []
    except UserError:
        if part:
            yield part
        raise
    if part:
        yield part
