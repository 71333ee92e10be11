"""From settings to image sets: read, check, find copies, split, decode, in this order.

Training gets train and validation from `prepare_training_data`. The test images leave this room through
`open_test_data` alone, which `evaluate` calls; before that they are only checked for damage and for copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.config import DataConfig, PreprocessConfig
from convcraft.data.copies import leak_findings, leaked_train_indices
from convcraft.data.copies_cache import remembered_copy_groups
from convcraft.data.fast_decode import choose_decoder, recorded_decoder
from convcraft.data.folder_index import remembered_scan
from convcraft.data.image_set import ImageSet
from convcraft.data.preprocess import VERSION, Preprocess, measure_mean_std, resolve
from convcraft.data.sample import ALL, Finding, Progress, Sample, Source
from convcraft.data.scan import Scan, findings, refuse_if_too_bad
from convcraft.data.sources import open_source
from convcraft.data.splits import Splits, all_samples, brought_indices, make_splits
from convcraft.data.spread import spread
from convcraft.errors import UserError

STATISTICS_IMAGES = 5_000  # mean and std of streamed sets are measured on so many train images
FILES_NAMED = 20  # of the images that training saw
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class TrainingData:
    """What training may see, and what it should record about where that came from.

    val: None where the run is final (all labelled images train, nothing is selected).
    description: plain values for the run's data.json: name, sizes, class counts, hashes of the splits, and
        which decoder training uses (`choose_decoder`).
    seen: uint64, sorted: fingerprints of the train and validation images, so that they are known again.
    groups, val_groups: int64, one per train and validation image, equal for near copies.
    """

    name: str
    classes: tuple[str, ...]
    preprocess: Preprocess
    train: ImageSet
    val: ImageSet | None
    description: dict[str, Any]
    findings: tuple[Finding, ...]
    seen: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    groups: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    val_groups: Indices = field(default_factory=lambda: np.empty(0, np.int64))


@dataclass(frozen=True)
class Recorded:
    """What an earlier start settled and a later one of the same run must keep to.

    preprocess_version: of the pixels (`preprocess.VERSION`).
    train_decoder: "contract" or "fast".
    """

    preprocess_version: int
    train_decoder: str


@dataclass(frozen=True)
class _Checked:
    """A source whose images were all looked at, and its splits."""

    source: Source
    samples: Sequence[Sample]
    scan: Scan
    splits: Splits
    groups: Indices  # int64, one per sample, equal for near copies
    findings: tuple[Finding, ...]


def prepare_training_data(
    config: DataConfig,
    wanted: PreprocessConfig,
    progress: Progress | None = None,
    *,
    recorded: Recorded | None = None,
) -> TrainingData:
    """Train and validation images under one preprocessing contract.

    Args:
        recorded: of the run that goes on; None for a new one.

    Raises:
        UserError: no such data, too many bad images, too few good ones, or a decoder that does not work here.
    """
    checked = _check(config, progress)
    samples, scan, splits = checked.samples, checked.scan, checked.splits
    memory_bytes = config.memory_megabytes << 20
    seen = np.concatenate([splits.train, splits.val])
    sizes = {(scan.facts[index].height, scan.facts[index].width) for index in seen}
    all_grey = all(scan.facts[index].channels == 1 for index in seen)
    preprocess = resolve(wanted, sizes=sizes, all_grey=all_grey)
    preprocess = replace(preprocess, version=VERSION if recorded is None else recorded.preprocess_version)
    train = ImageSet.build([samples[index] for index in splits.train], preprocess, memory_bytes, progress)
    if wanted.mean is None:
        preprocess = preprocess.with_statistics(*measure_mean_std(_pixels_to_measure(train)))
        train = ImageSet(train.samples, train.targets, preprocess, train.pixels)
    if recorded is not None:
        decoder = recorded_decoder(recorded.train_decoder)
    else:
        facts = [scan.facts[index] for index in splits.train]
        decoder = choose_decoder(config.train_decoder, facts, preprocess, streams=train.pixels is None)
    train = replace(train, train_decoder=decoder)
    val = None
    if len(splits.val):
        val = ImageSet.build([samples[index] for index in splits.val], preprocess, memory_bytes, progress)
    return TrainingData(
        name=checked.source.name,
        classes=checked.source.classes,
        preprocess=preprocess,
        train=train,
        val=val,
        description={**_describe(checked), "train_decoder": decoder},
        findings=checked.findings,
        seen=np.unique(_fingerprints(scan, seen)),
        groups=checked.groups[splits.train],
        val_groups=checked.groups[splits.val],
    )


def open_test_data(
    config: DataConfig,
    classes: tuple[str, ...],
    preprocess: Preprocess,
    expected_sha256: str | None = None,
    progress: Progress | None = None,
) -> ImageSet:
    """The test images that training set aside, or without a hash other data: with targets by the run's class table.

    Args:
        classes: the run's; classes are matched by name, never by position.
        expected_sha256: the hash that training recorded for the test split.

    Raises:
        UserError: a class that the run does not know, or other test images than training set aside.
    """
    if expected_sha256 is None:
        return open_other_data(config, classes, preprocess, progress=progress)[0]
    source = open_source(config, progress=progress)
    samples: Sequence[Sample] = all_samples(source)
    brought = brought_indices(source)
    if "test" in brought and config.test_split is None:
        samples, scan, chosen = _scan_part(samples, brought["test"], config.source, progress)
    else:
        checked = _check(config, progress)
        samples, scan, chosen = checked.samples, checked.scan, checked.splits.test
    if scan.data_hash(samples, chosen) != expected_sha256:
        raise UserError(
            f"the test images of {source.name} are not those that were set aside when this run was trained",
            "the same images and labels",
            "Bring the data back as it was, or evaluate on other data by naming it.",
        )
    return _image_set(source, [samples[index] for index in chosen], classes, preprocess, config, progress)


def open_other_data(
    config: DataConfig,
    classes: tuple[str, ...],
    preprocess: Preprocess,
    seen: NDArray[np.uint64] | None = None,
    progress: Progress | None = None,
) -> tuple[ImageSet, tuple[Finding, ...]]:
    """Other data than the run's own, and what should be known of it.

    Nothing is split off: it is judged on the part that config.test_split names, else on "test", else on its only part.

    Args:
        seen: fingerprints of the images that the run was trained and validated on (`TrainingData.seen`).

    Raises:
        UserError: a class that the run does not know, too many bad images, or no part to judge on.
    """
    source = open_source(config, progress=progress)
    part = _part_to_judge_on(source, config.test_split)
    samples, scan, chosen = _scan_part(all_samples(source), part, config.source, progress)
    refuse_if_too_bad(scan, samples, allow_bad=config.allow_bad)
    found: tuple[Finding, ...] = ()
    if seen is not None:
        found = _seen_before([samples[index] for index in chosen], np.isin(_fingerprints(scan, chosen), seen))
    return _image_set(source, [samples[index] for index in chosen], classes, preprocess, config, progress), found


def _image_set(
    source: Source,
    chosen: Sequence[Sample],
    classes: tuple[str, ...],
    preprocess: Preprocess,
    config: DataConfig,
    progress: Progress | None,
) -> ImageSet:
    if not chosen:
        raise UserError(f"{source.name} has no test images", "a test part", "Name labelled data to evaluate on.")
    renumbered = _renumber(chosen, source.classes, classes)
    return ImageSet.build(renumbered, preprocess, config.memory_megabytes << 20, progress)


def _fingerprints(scan: Scan, part: Indices) -> NDArray[np.uint64]:
    """The first 64 bits of the digest of each image's pixels: uint64 [P]. Among a million images, two different ones
    share them with a chance of one in 30 million."""
    return np.array([int(scan.digests[index][:16], 16) for index in part], np.uint64)


def _seen_before(samples: Sequence[Sample], seen: NDArray[np.bool_]) -> tuple[Finding, ...]:
    """A warning where images to be judged on are, pixel for pixel, among those of the training."""
    if not seen.any():
        return ()
    files = tuple(samples[index].source for index in np.flatnonzero(seen)[:FILES_NAMED])
    message = (
        f"{int(seen.sum()):,} of {len(samples):,} images are, pixel for pixel, images that the run was trained or "
        f"validated on, such as {files[0]}: the figures say too much."
    )
    return (Finding("leak", "warning", files, message, "Judge the run on images that it has not seen."),)


def _check(config: DataConfig, progress: Progress | None) -> _Checked:
    """Look at every image once, find copies, and split so that none straddles a border that we draw."""
    source = open_source(config, progress=progress)
    samples = all_samples(source)
    scan = remembered_scan(samples, config.source, progress=progress)
    refuse_if_too_bad(scan, samples, allow_bad=config.allow_bad)
    groups = remembered_copy_groups(scan, progress)
    splits = make_splits(source, config, groups, usable=scan.usable)
    leaks = leak_findings(groups, splits, samples)
    if config.drop_leaks and leaks:
        usable = scan.usable.copy()
        leaked = leaked_train_indices(groups, splits)
        usable[leaked] = False
        splits = make_splits(source, config, groups, usable=usable)
        message = f"{len(leaked)} train images that have copies in val or test were left out (--drop-leaks)."
        files = tuple(file for leak in leaks for file in leak.files)
        leaks = (Finding("leak", "info", files, message, "Nothing to do."),)
    found = (*source.findings, *scan.notes, *findings(scan, samples), *splits.findings, *leaks)
    return _Checked(source, samples, scan, splits, groups, found)


def _part_to_judge_on(source: Source, asked: str | None) -> Indices:
    """Which samples of other data are judged."""
    parts = brought_indices(source)
    name = asked if asked is not None else "test"
    if name in parts:
        return parts[name]
    if asked is None and len(parts) == 1:
        return next(iter(parts.values()))
    brought = ", ".join(part for part in parts if part != ALL) or "none"
    fix = "Name one of its parts with --test-split, or give the folder of that part alone."
    raise UserError(f"{source.name} has no part {name!r} (it has: {brought})", "a part to judge on", fix)


def _scan_part(
    samples: Sequence[Sample], part: Indices, place: str, progress: Progress | None
) -> tuple[Sequence[Sample], Scan, Indices]:
    """Scan only some samples: these, their scan, and the indices of the usable ones among them."""
    chosen = [samples[index] for index in part]
    scan = remembered_scan(chosen, place, complete=len(part) == len(samples), progress=progress)
    return chosen, scan, np.flatnonzero(scan.usable)


def _pixels_to_measure(images: ImageSet) -> NDArray[np.uint8]:
    """All train pixels, or those of evenly spaced images of a set that streams."""
    if images.pixels is not None:
        return images.pixels
    return images.pixels_of(spread(len(images), STATISTICS_IMAGES))


def _renumber(samples: Sequence[Sample], own: tuple[str, ...], wanted: tuple[str, ...]) -> list[Sample]:
    """Targets as indices into another class table that has all the names."""
    if own == wanted:
        return list(samples)
    unknown = sorted({own[sample.target] for sample in samples} - set(wanted))
    if unknown:
        raise UserError(
            f"classes {', '.join(unknown[:10])} that the run was not trained on",
            f"classes among: {', '.join(wanted[:20])}",
            "Rename the class folders or labels, or leave those images out.",
        )
    index = {name: position for position, name in enumerate(wanted)}
    return [sample.with_target(index[own[sample.target]]) for sample in samples]


def _describe(checked: _Checked) -> dict[str, Any]:
    """What data.json records."""
    parts = {"train": checked.splits.train, "val": checked.splits.val, "test": checked.splits.test}
    targets = np.array([sample.target for sample in checked.samples], dtype=np.int64)
    num_classes = len(checked.source.classes)
    return {
        "name": checked.source.name,
        "brought_splits": [name for name in checked.source.splits if name != "all"],
        "num_images": {name: len(part) for name, part in parts.items()},
        "class_counts": {
            name: np.bincount(targets[part], minlength=num_classes).tolist() for name, part in parts.items()
        },
        "sha256": {name: checked.scan.data_hash(checked.samples, part) for name, part in parts.items()},
        "findings": [finding.as_dict() for finding in checked.findings],
    }
