"""Data as the doctor looks at it: nothing refused, nothing held in memory, prepared as whoever looks needs it."""

from __future__ import annotations

from dataclasses import replace

from convcraft.config import RunConfig
from convcraft.data.dataset import TrainingData
from convcraft.data.preprocess import Preprocess, measure_mean_std
from convcraft.data.spread import spread

STATISTICS_IMAGES = 256  # mean and std of so many images are near enough for looking


def examined_config(config: RunConfig) -> RunConfig:
    """Too many bad files are a finding here, and nothing needs to be held in memory or measured."""
    examined = config.changed(data={"allow_bad": True, "memory_megabytes": 0})
    if examined.preprocess.mean is None:
        examined = examined.changed(preprocess={"mean": (0.0,), "std": (1.0,)})
    return examined


def with_statistics(data: TrainingData) -> TrainingData:
    """The same data under the mean and std of some train images, as training would measure them on all."""
    some = spread(len(data.train), STATISTICS_IMAGES)
    return under(data, data.preprocess.with_statistics(*measure_mean_std(data.train.pixels_of(some))))


def under(data: TrainingData, preprocess: Preprocess) -> TrainingData:
    """The same images, prepared otherwise. data: streaming, as the doctor has it."""
    val = None if data.val is None else replace(data.val, preprocess=preprocess)
    return replace(data, preprocess=preprocess, train=replace(data.train, preprocess=preprocess), val=val)
