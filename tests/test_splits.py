"""Splits: disjoint, complete, stratified, seeded, copies kept together, brought splits left alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from convcraft.config import DataConfig
from convcraft.data.sample import ALL, Sample, Source
from convcraft.data.splits import Splits, all_samples, brought_indices, canonical_split, make_splits
from convcraft.errors import UserError


def source_of(**targets: list[int]) -> Source:
    """A source with these targets per split."""
    classes = max(max(part, default=0) for part in targets.values()) + 1
    splits = {
        split: [Sample(b"", target, f"{split}/{number}") for number, target in enumerate(part)]
        for split, part in targets.items()
    }
    return Source("made", tuple(f"class {number}" for number in range(classes)), splits)


def targets_of(source: Source) -> NDArray[np.int64]:
    return np.array([sample.target for sample in all_samples(source)])


def names(source: Source, part: NDArray[np.int64]) -> set[str]:
    samples = all_samples(source)
    return {samples[index].source for index in part}


def assert_partition(splits: Splits, pool: NDArray[np.int64]) -> None:
    together = np.concatenate([splits.train, splits.val, splits.test])
    assert sorted(together.tolist()) == sorted(pool.tolist())  # complete, and nothing twice


counts_per_class = st.lists(st.integers(3, 60), min_size=2, max_size=6)
fractions = st.floats(0.05, 0.4)


@settings(deadline=None, max_examples=100)
@given(counts_per_class, fractions, fractions, st.integers(0, 5), st.randoms())
def test_single_images(counts: list[int], val: float, test: float, seed: int, random: object) -> None:
    targets = [label for label, count in enumerate(counts) for _ in range(count)]
    random.shuffle(targets)  # type: ignore[attr-defined]
    source = source_of(all=targets)
    config = DataConfig(val_fraction=val, test_fraction=test, split_seed=seed)
    splits = make_splits(source, config)
    assert_partition(splits, np.arange(len(targets)))
    labels = targets_of(source)
    for label, count in enumerate(counts):
        in_test = int((labels[splits.test] == label).sum())
        in_val = int((labels[splits.val] == label).sum())
        assert abs(in_test - test * count) <= 1
        assert abs(in_val - val * (count - in_test)) <= 1
        assert in_test >= 1
        assert count - in_test - in_val >= 1
        assert in_val >= 1 or count - in_test < 2


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(1, 9), st.integers(0, 3)), min_size=12, max_size=60), st.integers(0, 3))
def test_no_group_straddles(groups: list[tuple[int, int]], seed: int) -> None:
    targets = [label for size, label in groups for _ in range(size)]
    group_ids = np.repeat(np.arange(len(groups)), [size for size, _ in groups])
    source = source_of(all=targets)
    splits = make_splits(source, DataConfig(split_seed=seed), group_ids)
    assert_partition(splits, np.arange(len(targets)))
    parts = [set(group_ids[part].tolist()) for part in (splits.train, splits.val, splits.test)]
    assert sum(map(len, parts)) == len(set.union(*parts))
    labels = targets_of(source)
    for label in set(targets):
        number = sum(1 for _, own in groups if own == label)
        assert (labels[splits.train] == label).any()
        assert (labels[splits.test] == label).any() == (number >= 2)
        assert (labels[splits.val] == label).any() == (number >= 3)


def test_shares_hold_with_groups_of_many() -> None:
    """A class of films: 40 groups of 25 frames each, and a class of single images."""
    targets = [0] * 1000 + [1] * 1000
    groups = np.concatenate([np.repeat(np.arange(40), 25), np.arange(100, 1100)])
    splits = make_splits(source_of(all=targets), DataConfig(test_fraction=0.2), groups)
    labels = np.array(targets)
    assert abs((labels[splits.test] == 0).sum() - 200) <= 13
    assert (labels[splits.test] == 1).sum() == 200


def test_groups_of_mixed_classes_stay_whole() -> None:
    targets = [0, 1] * 50
    groups = np.repeat(np.arange(50), 2)  # each pair: the same picture under two labels
    splits = make_splits(source_of(all=targets), DataConfig(), groups)
    assert not set(groups[splits.train]) & set(groups[splits.test])
    assert not set(groups[splits.train]) & set(groups[splits.val])
    assert len(splits.test) == 20


def test_same_seed_same_split_whatever_the_order() -> None:
    samples = [Sample(b"", number % 3, f"{number}.png") for number in range(90)]
    parts = []
    for order in (range(90), reversed(range(90)), np.random.default_rng(0).permutation(90)):
        source = Source("made", ("a", "b", "c"), {ALL: [samples[index] for index in order]})
        splits = make_splits(source, DataConfig())
        parts.append([names(source, part) for part in (splits.train, splits.val, splits.test)])
    assert parts[0] == parts[1] == parts[2]
    source = Source("made", ("a", "b", "c"), {ALL: samples})
    other = make_splits(source, DataConfig(split_seed=1))
    assert names(source, other.test) != parts[0][2]


def test_brought_splits_are_not_altered() -> None:
    source = source_of(train=[0, 1] * 20, val=[0, 1] * 5, test=[0, 1] * 5)
    groups = np.zeros(60, np.int64)  # all one group: would forbid any cut
    splits = make_splits(source, DataConfig(), groups)
    brought = brought_indices(source)
    np.testing.assert_array_equal(splits.train, brought["train"])
    np.testing.assert_array_equal(splits.val, brought["val"])
    np.testing.assert_array_equal(splits.test, brought["test"])


def test_val_comes_from_train_alone() -> None:
    source = source_of(train=[0, 1] * 50, test=[0, 1] * 20)
    splits = make_splits(source, DataConfig(val_fraction=0.1))
    np.testing.assert_array_equal(splits.test, np.arange(100, 140))
    assert len(splits.val) == 10
    assert_partition(splits, np.arange(140))
    assert splits.val.max() < 100


def test_test_split_names_another_split() -> None:
    source = source_of(train=[0, 1] * 50, val=[0, 1] * 20)
    splits = make_splits(source, DataConfig(test_split="validation"))
    np.testing.assert_array_equal(splits.test, np.arange(100, 140))
    assert len(splits.val) == 10
    assert splits.val.max() < 100
    without = make_splits(source, DataConfig())
    np.testing.assert_array_equal(without.val, np.arange(100, 140))
    assert len(without.test) == 20
    assert "--test-split val" in without.findings[0].fix


@pytest.mark.parametrize("name", ["test", "holdout", "train"])
def test_test_split_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError) as caught:
        make_splits(source_of(train=[0, 1] * 5, val=[0, 1]), DataConfig(test_split=name))
    assert repr(name) in caught.value.received


def test_no_train_and_no_splits() -> None:
    with pytest.raises(UserError, match=r"val \(2\)"):
        make_splits(source_of(val=[0, 1], test=[0, 1]), DataConfig())
    with pytest.raises(UserError, match="brings no splits"):
        make_splits(source_of(all=[0, 1] * 9), DataConfig(test_split="val"))


def test_final_trains_on_everything_but_test() -> None:
    source = source_of(train=[0, 1] * 20, val=[0, 1] * 5, test=[0, 1] * 5)
    splits = make_splits(source, DataConfig(final=True))
    np.testing.assert_array_equal(splits.train, np.arange(50))
    assert len(splits.val) == 0
    single = make_splits(source_of(all=[0, 1] * 50), DataConfig(final=True))
    assert (len(single.train), len(single.val), len(single.test)) == (80, 0, 20)
    kept = make_splits(source_of(all=[0, 1] * 50), DataConfig())
    np.testing.assert_array_equal(single.test, kept.test)
    few = source_of(all=[0] * 11 + [1] * 11)
    groups = np.array([0, 1] + [2] * 9 + [3, 4] + [5] * 9)  # both small groups would fill the test part
    tests = [make_splits(few, DataConfig(final=final), groups).test.tolist() for final in (False, True)]
    assert tests[0] == tests[1]


def test_labels_per_class_are_nested_and_leave_the_rest_alone() -> None:
    source = source_of(all=[0] * 100 + [1] * 100 + [2] * 12)
    full = make_splits(source, DataConfig())
    few, more = (make_splits(source, DataConfig(labels_per_class=count)) for count in (5, 20))
    labels = targets_of(source)
    assert np.bincount(labels[few.train]).tolist() == [5, 5, 5]
    assert np.bincount(labels[more.train])[:2].tolist() == [20, 20]
    assert set(few.train) <= set(more.train) <= set(full.train)
    np.testing.assert_array_equal(few.test, full.test)
    np.testing.assert_array_equal(few.val, full.val)
    assert "class 2" in more.findings[-1].message
    assert more.findings[-1].kind == "too_few"


def test_unusable_images_are_nowhere() -> None:
    source = source_of(train=[0, 1] * 20, test=[0, 1] * 5)
    usable = np.ones(50, np.bool_)
    usable[[3, 45]] = False
    splits = make_splits(source, DataConfig(), usable=usable)
    assert_partition(splits, np.flatnonzero(usable))


def test_too_few_images() -> None:
    splits = make_splits(source_of(all=[0] * 30 + [1]), DataConfig())
    assert 30 in splits.train  # the only image of its class is learned from
    assert [f.kind for f in splits.findings] == ["too_few", "too_few"]
    with pytest.raises(UserError, match="too few to make a test part"):
        make_splits(source_of(all=[0, 1]), DataConfig())
    missing = make_splits(source_of(train=[0] * 9, test=[0, 1]), DataConfig())
    assert "no train image" in missing.findings[-1].message


def test_fraction_zero_makes_no_part() -> None:
    splits = make_splits(source_of(all=[0, 1] * 20), DataConfig(val_fraction=0.0, test_fraction=0.0))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (40, 0, 0)


def test_names_of_splits() -> None:
    assert [canonical_split(name) for name in ("Train", " valid ", "TESTING", "dev", "holdout")] == [
        *("train", "val", "test", "val", None)
    ]
    with pytest.raises(UserError, match="train, holdout"):
        make_splits(source_of(train=[0, 1], holdout=[0, 1]), DataConfig())
