"""Which images train, which validate, which test: stratified, seeded, near copies kept together.

Everything here speaks in indices into one list, `all_samples(source)`: the samples of the source's splits one after the
other. Scan that list, and thumbnails, digests, `usable` and `groups` of the scan have the same order as the indices.

Splits that the data brings are never altered; only what is missing is made, from train. A place in a made split is a
function of (split_seed, name of the image) and of how many are needed, never of the order in which files were listed.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from convcraft.config import DataConfig
from convcraft.data.sample import ALL, Finding, Sample, Source
from convcraft.errors import UserError

Indices = NDArray[np.int64]

SPLIT_ALIASES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
NAMES_SHOWN = 10  # of many files, a message names so many


@dataclass(frozen=True)
class Splits:
    """The three parts as indices into `all_samples(source)`, each in rising order, and what should be known of them."""

    train: Indices
    val: Indices
    test: Indices
    findings: tuple[Finding, ...] = field(default=())


def canonical_split(name: str) -> str | None:
    """ "train", "val" or "test" for a name of a split in any usual spelling, None for any other name."""
    return SPLIT_ALIASES.get(name.strip().casefold())


def all_samples(source: Source) -> list[Sample]:
    """The samples of all splits in one list, in the order of `source.splits`: what indices here point into."""
    return list(chain.from_iterable(source.splits.values()))


def brought_indices(source: Source) -> dict[str, Indices]:
    """The splits that the data brings, as indices into `all_samples(source)`."""
    parts: dict[str, Indices] = {}
    start = 0
    for name, samples in source.splits.items():
        parts[name] = np.arange(start, start + len(samples), dtype=np.int64)
        start += len(samples)
    return parts


def make_splits(
    source: Source,
    config: DataConfig,
    groups: NDArray[np.int64] | None = None,
    *,
    usable: NDArray[np.bool_] | None = None,
) -> Splits:
    """Train, val and test of a source.

    Args:
        source: what a reader found.
        config: fractions, seed, test_split, labels_per_class and final.
        groups: int64 [N], equal for near copies (`copies.copy_groups`); None takes every image as its own group.
        usable: bool [N], False for images to leave out (unreadable ones, dropped leaks); None takes all.

    Raises:
        UserError: a split that is not there, no train part, or too few images to make a part.
    """
    samples = all_samples(source)
    groups = np.arange(len(samples), dtype=np.int64) if groups is None else np.asarray(groups, dtype=np.int64)
    usable = np.ones(len(samples), dtype=np.bool_) if usable is None else np.asarray(usable, dtype=np.bool_)
    if not len(groups) == len(usable) == len(samples):
        raise ValueError(f"{len(samples)} samples, but {len(groups)} groups and {len(usable)} usable flags")
    maker = _Maker(samples, source.classes, groups, config.split_seed)
    brought = {name: part[usable[part]] for name, part in brought_indices(source).items()}
    train, val, test, findings = _assign_brought(brought, config)

    if test is None:
        val_follows = val is None and config.val_fraction > 0  # with --final too: its test part must be the same
        train, test, found = maker.cut(train, config.test_fraction, "test", keep_groups=2 if val_follows else 1)
        findings += found
    if val is None:
        fraction = 0.0 if config.final else config.val_fraction
        train, val, found = maker.cut(train, fraction, "val")
        findings += found
    elif config.final:
        train, val = np.sort(np.concatenate([train, val])), val[:0]
    if config.labels_per_class is not None:
        train, found = maker.keep_per_class(train, config.labels_per_class)
        findings += found
    findings += maker.missing_classes(train)
    return Splits(train, val, test, tuple(findings))


def _assign_brought(
    brought: dict[str, Indices], config: DataConfig
) -> tuple[Indices, Indices | None, Indices | None, list[Finding]]:
    """(train, val, test, findings) as the data brings them; None for a part that is to be made."""
    unknown = [name for name in brought if name not in ("train", "val", "test", ALL)]
    if unknown or (ALL in brought and len(brought) > 1):
        raise UserError(f"splits named {', '.join(brought)}", "train, val and test", "Rename the splits.")
    if config.test_split is None:
        wanted_test = "test"
    else:
        wanted_test = _named_test_split(config.test_split, brought)
    if ALL in brought:
        return brought[ALL], None, None, []
    if "train" not in brought or not len(brought["train"]):
        raise UserError(
            f"no train images; splits found: {', '.join(f'{n} ({len(p)})' for n, p in brought.items())}",
            "a split named train",
            "Name the part to learn from train, or give a folder of classes without splits to have it split.",
        )
    test = brought.get(wanted_test)
    val = brought.get("val") if wanted_test != "val" else None
    return brought["train"], val, test, _notes_on_brought(brought, wanted_test)


def _named_test_split(asked: str, brought: Mapping[str, Indices]) -> str:
    found = ", ".join(name for name in brought if name != ALL) or "none: the data brings no splits"
    name = canonical_split(asked)
    if name is None or name not in brought:
        raise UserError(
            f"data.test_split (--test-split) is {asked!r}; splits found: {found}",
            "the name of a split that the data brings",
            "Name one of the splits found, or leave the option out.",
        )
    if name == "train":
        raise UserError(
            "data.test_split (--test-split) is 'train'",
            "val or test",
            "A model cannot be tested on what it learned from: name val or test.",
        )
    return name


def _notes_on_brought(brought: Mapping[str, Indices], test_name: str) -> list[Finding]:
    if test_name == "val" and "test" in brought:
        message = f"val serves as test, as asked; the {len(brought['test'])} images of the split test are not used."
        return [Finding("settings", "info", (), message, "Leave out --test-split to test on test.")]
    if "val" in brought and test_name not in brought:
        message = "The data brings train and val but no test: a part of train is kept back as test."
        return [Finding("settings", "info", (), message, "If val is the test set, pass --test-split val.")]
    return []


@dataclass(frozen=True)
class _Group:
    """Images that stay together, and how many of each class they are."""

    rows: list[int]
    counts: Counter[int]


class _Maker:
    """Cuts parts out of a pool of indices: seeded, stratified by class, groups kept whole."""

    def __init__(self, samples: Sequence[Sample], classes: Sequence[str], groups: Indices, seed: int) -> None:
        self.classes = classes
        self.groups = groups
        self.seed = seed
        self.names = [sample.source for sample in samples]
        self.targets = np.fromiter((sample.target for sample in samples), np.int64, len(samples))

    def cut(
        self, pool: Indices, fraction: float, part: str, keep_groups: int = 1
    ) -> tuple[Indices, Indices, list[Finding]]:
        """(rest, cut-off part, findings): about `fraction` of each class of the pool, at least one image of each
        class that has two or more groups. Each class keeps `keep_groups` groups where it has more than that, else one.

        Groups are taken in seeded order while they bring the class counts nearer to what is wanted, so with groups of
        one image each class gets its share within one image, and a large group goes in only where it fits.
        """
        if fraction == 0:
            return pool, pool[:0], []
        groups = [_Group(rows, Counter(self.targets[rows].tolist())) for rows in self._groups(pool, part)]
        available = np.bincount(self.targets[pool], minlength=len(self.classes))
        groups_left = Counter(label for group in groups for label in group.counts)
        kept = {label: min(keep_groups, n - 1) for label, n in groups_left.items()}
        wanted = {label: max(round(int(available[label]) * fraction), 1) for label, n in groups_left.items() if n >= 2}
        have: Counter[int] = Counter()
        chosen_groups: dict[int, _Group] = {}

        def may_go(counts: Mapping[int, int]) -> bool:
            return all(groups_left[label] > max(kept[label], 1) for label in counts)

        def take(number: int) -> None:
            chosen_groups[number] = groups[number]
            have.update(groups[number].counts)
            groups_left.subtract(groups[number].counts.keys())

        for number, group in enumerate(groups):
            short = sum(abs(wanted.get(label, 0) - have[label]) for label in group.counts)
            short_after = sum(abs(wanted.get(label, 0) - have[label] - n) for label, n in group.counts.items())
            if short_after < short and may_go(group.counts):
                take(number)
        # A class of which every group was too large still has none: give it its smallest group.
        by_size = sorted(range(len(groups)), key=lambda number: len(groups[number].rows))
        for label in sorted(wanted):
            for number in by_size if not have[label] else ():
                counts = groups[number].counts
                if label in counts and number not in chosen_groups and may_go(counts):
                    take(number)
                    break
        chosen = np.array([row for group in chosen_groups.values() for row in group.rows], np.int64)
        if not len(chosen):
            raise UserError(
                f"{len(pool)} images in {len(groups)} groups of near copies are too few to make a {part} part",
                "at least two images that are not copies of each other in some class",
                f"Add images, or set data.{part}_fraction to 0.",
            )
        rest = np.setdiff1d(pool, chosen)
        absent = [name for label, name in enumerate(self.classes) if available[label] and not have[label]]
        return rest, np.sort(chosen), self._too_few(absent, part)

    def keep_per_class(self, train: Indices, per_class: int) -> tuple[Indices, list[Finding]]:
        """The first `per_class` images of each class in seeded order, so that fewer labels are a part of more."""
        order = self._seeded_order(train, "labels")
        kept: list[NDArray[np.int64]] = []
        short: list[str] = []
        for label, name in enumerate(self.classes):
            of_class = order[self.targets[order] == label]
            kept.append(of_class[:per_class])
            if len(of_class) < per_class:
                short.append(f"{name} ({len(of_class)})")
        findings = []
        if short:
            message = f"{len(short)} classes have fewer than {per_class} train images: {_some(short)}."
            findings = [Finding("too_few", "warning", (), message, "Lower --labels-per-class, or add images.")]
        return np.sort(np.concatenate(kept)), findings

    def missing_classes(self, train: Indices) -> list[Finding]:
        """A finding for classes of the table that train has no image of."""
        present = np.bincount(self.targets[train], minlength=len(self.classes)) > 0
        missing = [name for name, there in zip(self.classes, present, strict=True) if not there]
        if not missing:
            return []
        message = f"{len(missing)} classes have no train image and cannot be learned: {_some(missing)}."
        return [Finding("too_few", "warning", (), message, "Add train images of these classes.")]

    def _too_few(self, missing: Sequence[str], part: str) -> list[Finding]:
        if not missing:
            return []
        message = f"{len(missing)} classes have too few images for the {part} part that was made: {_some(missing)}."
        return [Finding("too_few", "warning", (), message, "Add images of these classes (copies do not count).")]

    def _seeded_order(self, pool: Indices, purpose: str) -> Indices:
        """The pool in an order given by a hash of (seed, purpose, name), whatever order the pool has."""
        ranked = sorted(
            ((_rank(self.seed, purpose, self.names[index]), self.names[index], int(index)) for index in pool),
        )
        return np.fromiter((index for _, _, index in ranked), np.int64, len(ranked))

    def _groups(self, pool: Indices, purpose: str) -> list[list[int]]:
        """Members of each group, groups in the order of their first member in seeded order."""
        members: dict[int, list[int]] = {}
        for index in self._seeded_order(pool, purpose):
            members.setdefault(int(self.groups[index]), []).append(int(index))
        return list(members.values())


def _rank(seed: int, purpose: str, name: str) -> bytes:
    text = f"{seed}\0{purpose}\0{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=8).digest()


def _some(names: Iterable[str]) -> str:
    """The names for a message, shortened when there are many."""
    listed = list(names)
    more = len(listed) - NAMES_SHOWN
    return ", ".join(listed[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
