"""How many multiplications and additions, and how much memory, the plain sum needs for one convolution."""

from __future__ import annotations

import math
from dataclasses import dataclass

from convcraft.scratch.conv_geometry import Geometry
from convcraft.scratch.parallel import images_per_chunk


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


def columns_bytes(geometry: Geometry, itemsize: int = 4) -> int:
    """The columns of im2col, for one chunk of images."""
    per_image = geometry.taps * math.prod(geometry.output_size) * itemsize
    return per_image * min(geometry.batch, images_per_chunk(per_image))
