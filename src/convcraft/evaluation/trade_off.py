"""Variants of one network, weighed against each other: how right, how fast, how large."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from convcraft.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Variant:
    """
    name: "onnx int8". accuracy: on `num_images` images, the same for all variants; interval: 95 % (Wilson).
    agreement: share of images that it calls as the run's own network does.
    milliseconds: for one image, median; slow, quick: the quartiles. size_bytes: of what is stored of the network.
    command: that makes it. place: where it lies; both as seen from the folder that holds the run.
    worse: classes and groups in which it is shown to be worse than the run's own network.
    """

    name: str
    accuracy: float
    interval: tuple[float, float]
    num_images: int
    agreement: float
    milliseconds: float
    quick: float
    slow: float
    size_bytes: int
    command: str
    place: str = ""
    worse: tuple[str, ...] = ()

    def beaten_by(self, other: Variant) -> bool:
        """Whether the other is no worse in accuracy, time and size, and better in one of them."""
        at_least = (
            other.accuracy >= self.accuracy,
            other.milliseconds <= self.milliseconds,
            other.size_bytes <= self.size_bytes,
        )
        better = (
            other.accuracy > self.accuracy,
            other.milliseconds < self.milliseconds,
            other.size_bytes < self.size_bytes,
        )
        return all(at_least) and any(better)


@dataclass(frozen=True)
class TradeOff:
    """All variants that were weighed together. images: which they were judged on. machine: where they were timed."""

    variants: tuple[Variant, ...]
    images: str
    machine: str

    @property
    def front(self) -> tuple[bool, ...]:
        """Which variants no other beats (Pareto)."""
        return tuple(not any(variant.beaten_by(other) for other in self.variants) for variant in self.variants)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        front = self.front
        listed = [{**asdict(variant), "on_front": on} for variant, on in zip(self.variants, front, strict=True)]
        return {"variants": listed, "images": self.images, "machine": self.machine}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TradeOff:
        """Of what `to_dict` gave.

        Raises:
            UserError: entries that are missing or unknown.
        """
        try:
            return cls(_variants(saved["variants"]), saved["images"], saved["machine"])
        except (KeyError, TypeError) as error:
            fix = "Delete variants.json; `convcraft export` writes it again."
            raise UserError(f"variants.json: {error}", "what `convcraft export` wrote", fix) from error


def _variants(saved: Sequence[Mapping[str, Any]]) -> tuple[Variant, ...]:
    kept = ({key: value for key, value in entry.items() if key != "on_front"} for entry in saved)
    return tuple(
        Variant(**{**entry, "interval": tuple(entry["interval"]), "worse": tuple(entry.get("worse", ()))})
        for entry in kept
    )
