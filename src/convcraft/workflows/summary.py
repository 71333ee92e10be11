"""`convcraft train --summary`: the network that a run would train, as a table, without training it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from convcraft.config import DataConfig, PreprocessConfig, RunConfig
from convcraft.data.images import BadImage, decode_image
from convcraft.data.preprocess import Preprocess, resolve
from convcraft.data.sample import Sample, Source
from convcraft.data.sources import open_source
from convcraft.data.splits import all_samples, brought_indices
from convcraft.data.spread import spread
from convcraft.models.build import num_parameters
from convcraft.models.summary import LayerRow, features_field, summarise
from convcraft.workflows.console import data_progress
from convcraft.workflows.load_model import build_network
from convcraft.workflows.weights_card import with_card

IMAGES_LOOKED_AT = 64
TABLE_COLUMNS = 160  # characters, where the output is no terminal


@dataclass(frozen=True)
class NetworkSummary:
    """A network and what it takes: its layers in order, and totals.

    receptive_field: height, width in pixels that one element of the last maps depends on; None where not known.
    """

    network: str
    image_size: tuple[int, int]
    channels: int
    num_classes: int
    layers: tuple[LayerRow, ...]
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, int] | None
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def summarise_network(config: RunConfig, *, console: Console) -> NetworkSummary:
    """Build the configured network for the configured data and describe it.

    Only as much of the data is read as the network's shape asks for: the class names, and where `preprocess` leaves
    image size or channels open, 64 images that are evenly spread over the data. Of a test part that the data brings
    none is looked at; a test part that training would cut is not known yet, so some of these may be in it.

    Raises:
        UserError: data or settings that cannot be used.
    """
    started = time.monotonic()
    config = with_card(config)
    with data_progress(console) as progress:
        source = open_source(config.data, progress=progress)
    preprocess = _preprocess_for(source, config.data, config.preprocess)
    model = build_network(config.model, source.classes, preprocess)
    size = (preprocess.height, preprocess.width)
    rows = summarise(model, size, preprocess.channels)
    return NetworkSummary(
        network=config.model.name,
        image_size=size,
        channels=preprocess.channels,
        num_classes=len(source.classes),
        layers=tuple(rows),
        parameters=num_parameters(model),
        multiply_adds=sum(row.multiply_adds for row in rows),
        receptive_field=features_field(rows),
        seconds=time.monotonic() - started,
    )


def _preprocess_for(source: Source, data: DataConfig, wanted: PreprocessConfig) -> Preprocess:
    """Size and channels as training would choose them, judged by a few images."""
    if wanted.image_size is not None and wanted.channels is not None:
        return resolve(wanted, sizes=(), all_grey=False)
    sizes: set[tuple[int, int]] = set()
    all_grey = True
    for sample in _some_training_samples(source, data):
        try:
            picture = decode_image(sample.image)
        except BadImage:
            continue  # training leaves it out, too, and says so
        sizes.add((picture.height, picture.width))
        all_grey = all_grey and picture.mode == "L"
        if len(sizes) > 1 and not all_grey:
            break  # no further image can change the answer
    return resolve(wanted, sizes=sizes, all_grey=all_grey and bool(sizes))


def _some_training_samples(source: Source, data: DataConfig) -> Iterator[Sample]:
    samples = all_samples(source)
    brought = brought_indices(source)
    test = brought.get(data.test_split or "test", np.array([], dtype=np.int64))
    others = np.setdiff1d(np.arange(len(samples)), test)
    places = spread(len(others), IMAGES_LOOKED_AT)
    return (samples[index] for index in others[places])


def print_summary(summary: NetworkSummary) -> None:
    """The table, on standard output."""
    height, width = summary.image_size
    table = Table(
        title=f"{summary.network}: {height}x{width} pixels, {summary.channels} channels, {summary.num_classes} classes",
        title_justify="left",
        box=box.SIMPLE,
        show_footer=True,
    )
    table.add_column("layer", "total", no_wrap=True)
    table.add_column("type", no_wrap=True)
    table.add_column("output", justify="right", no_wrap=True)
    table.add_column("parameters", f"{summary.parameters:,}", justify="right", no_wrap=True)
    table.add_column("multiply-adds", f"{summary.multiply_adds:,}", justify="right", no_wrap=True)
    table.add_column("receptive field", justify="right", no_wrap=True)
    for row in summary.layers:
        shape = " x ".join(map(str, row.output_shape))
        table.add_row(row.name, row.type, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}", describe_field(row))
    console = Console(highlight=False, markup=False)
    console.width = console.width if console.is_terminal else TABLE_COLUMNS
    console.print(table)


def describe_field(row: LayerRow) -> str:
    """ "whole image", "35", "35 x 17" (height x width in pixels), or "-" where it is not known."""
    if row.whole_image:
        return "whole image"
    if row.receptive_field is None:
        return "-"
    height, width = row.receptive_field
    return str(height) if height == width else f"{height} x {width}"
