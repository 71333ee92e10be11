"""A grouped convolution as several convolutions, each on its own maps."""

from __future__ import annotations

from dataclasses import replace

from convcraft.scratch.conv_geometry import Geometry


def each_group(geometry: Geometry) -> list[tuple[slice, slice, Geometry]]:
    """For each group: its input maps, its output maps, and its geometry as a convolution without groups."""
    inputs, outputs = (channels // geometry.groups for channels in (geometry.in_channels, geometry.out_channels))
    own = replace(geometry, in_channels=inputs, out_channels=outputs, groups=1)
    return [
        (slice(group * inputs, (group + 1) * inputs), slice(group * outputs, (group + 1) * outputs), own)
        for group in range(geometry.groups)
    ]
