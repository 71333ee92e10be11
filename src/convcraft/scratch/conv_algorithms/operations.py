"""How many multiplications and additions an algorithm needs for one convolution."""

from __future__ import annotations

from dataclasses import dataclass

from convcraft.scratch.conv_geometry import Geometry


@dataclass(frozen=True)
class Operations:
    multiplications: int
    additions: int

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.multiplications + other.multiplications, self.additions + other.additions)

    def times(self, count: int) -> Operations:
        return Operations(self.multiplications * count, self.additions * count)


def dense_operations(geometry: Geometry) -> Operations:
    """Every output multiplies and sums C / G kH kW numbers; padding counts, since zeros are multiplied too."""
    return Operations(geometry.outputs * geometry.taps, geometry.outputs * (geometry.taps - 1))
