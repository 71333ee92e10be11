"""The full examination of `convcraft doctor`: a network looks at every image, and the findings get their pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convcraft.config import ModelConfig, RunConfig
from convcraft.data.dataset import TrainingData, open_test_data
from convcraft.data.image_set import ImageSet
from convcraft.data.image_statistics import image_statistics
from convcraft.data.images import BadImage, decode
from convcraft.data.preprocess import resolve
from convcraft.data.sample import Finding, Progress, Sample
from convcraft.data.sources import open_source
from convcraft.data.splits import all_samples
from convcraft.data.spread import spread
from convcraft.doctor.balance import precision_findings
from convcraft.doctor.copies import hidden_copy_findings
from convcraft.doctor.label_errors import can_judge, find_label_errors, label_findings
from convcraft.doctor.seen import PLAIN, Eye, held_out_probabilities
from convcraft.doctor.shift import LEAST_IMAGES, compare_statistics, shift_findings, two_sample_test
from convcraft.doctor.sizes import size_findings
from convcraft.models.pretrained import Pretrained, resolve_pretrained
from convcraft.models.weights import load_weights
from convcraft.report.doctor_sheet import FindingPictures, Picture, write_page
from convcraft.statistics import holm
from convcraft.workflows.examined import examined_config, under, with_statistics
from convcraft.workflows.load_model import build_network

SHIPPED = "mnist-resnet20"  # comes with the package: for grey images of its size
SHIPPED_SIDE_PIXELS = 28
DECODED_PICTURES = 1000  # of each split: light, colour and sizes are measured on so many
PICTURES_SHOWN = 12  # of each finding
PICTURE_PIXELS = 256

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class _Part:
    """The images of a split, as the eye sees them: features float32 [N, D]; groups int64 [N], equal for near copies.

    Within test, copies are not known (its images stay closed to the search for them): each counts by itself.
    """

    name: str
    images: ImageSet
    features: Floats
    groups: NDArray[np.int64]


def examine_fully(
    config: RunConfig, data: TrainingData, weights: str | None, model: str | None, progress: Progress
) -> tuple[list[Finding], tuple[str, ...]]:
    """Wrong labels, shift between splits, hidden copies, sizes.

    Args:
        config: as it was given. data: prepared for looking (`examined_config`).
        weights, model: as `doctor` takes them.

    Returns:
        the findings, and sentences that say what was looked at and with what.
    """
    eye, data = _open_eye(config, data, weights, model, progress)
    train = _Part("train", data.train, eye.features(data.train, progress), data.groups)
    others = []
    if data.val is not None:
        others.append(_Part("val", data.val, eye.features(data.val, progress), data.val_groups))
    pool, features, groups = data.train, train.features, data.groups
    if data.val is not None:
        pool = data.train.joined(data.val)
        features, groups = np.concatenate([features, others[0].features]), np.concatenate([groups, data.val_groups])
    notes = [f"Images were looked at with {eye.name}."]
    found, said = _wrong_labels(pool, features, groups, data.classes, eye)
    notes.append(said)
    found += hidden_copy_findings(pool, features, groups, progress)
    test = _test_without_labels(config, data)
    if test is not None:
        alone = np.arange(len(test)) + 1 + max(data.groups.max(initial=0), data.val_groups.max(initial=0))
        others.append(_Part("test", test, eye.features(test, progress), alone))
        notes.append(
            f"Light, colour, size and features of the {len(test):,} test images were compared with those of train, "
            "without their labels."
        )
    found += _shifts(train, others, data, eye)
    for part in others:
        found += precision_findings(len(part.images), part.name)
    return found, tuple(notes)


def _open_eye(
    config: RunConfig, data: TrainingData, weights: str | None, model: str | None, progress: Progress
) -> tuple[Eye, TrainingData]:
    """What looks at the images, and the data prepared for it."""
    if weights is not None or model is not None:
        return _pretrained_eye(data, resolve_pretrained(model, weights, progress=progress))
    if config.model.weights is not None:
        found = resolve_pretrained(config.model.name, config.model.weights, progress=progress)
        return _pretrained_eye(data, found, config.model.args)
    preprocess = data.preprocess
    if (preprocess.channels, preprocess.height, preprocess.width) == (1, SHIPPED_SIDE_PIXELS, SHIPPED_SIDE_PIXELS):
        return _pretrained_eye(data, resolve_pretrained(None, SHIPPED))
    return PLAIN, data


def _pretrained_eye(
    data: TrainingData, found: Pretrained, args: Mapping[str, Any] | None = None
) -> tuple[Eye, TrainingData]:
    """A network, and the data as the card of its weights wants them; without a card, as they were prepared."""
    preprocess = data.preprocess
    settled = found.settled(RunConfig(model=ModelConfig(args=dict(args or {}))))
    if found.card is not None:
        preprocess = resolve(
            settled.preprocess, sizes=(), all_grey=False
        )  # a card leaves neither size nor channels open
    elif preprocess.mean == (0.0,):
        preprocess = with_statistics(data).preprocess
    network = build_network(settled.model, data.classes, preprocess)
    load_weights(network, found.path)
    return Eye(network.eval(), f"{found.architecture} ({found.path.name})"), under(data, preprocess)


def _wrong_labels(
    pool: ImageSet, features: Floats, groups: NDArray[np.int64], classes: Sequence[str], eye: Eye
) -> tuple[list[Finding], str]:
    """Findings, and a sentence that says how far they can be believed."""
    if len(np.unique(pool.targets)) < 2:
        return [], "Labels were not judged: all images have one class."
    probabilities = held_out_probabilities(features, pool.targets, len(classes), groups)
    judged = np.isfinite(probabilities).all(axis=1)
    accuracy = float((probabilities[judged].argmax(axis=1) == pool.targets[judged]).mean()) if judged.any() else 0.0
    how = f"a linear probe that never saw the image or its copies gives {accuracy:.1%} of the labels"
    if not can_judge(probabilities, pool.targets):
        return [], f"Labels were not judged: {how}, which is too few to doubt any."
    errors = find_label_errors(probabilities, pool.targets)
    found = label_findings(errors, pool.targets, pool.names, classes, f"a probe on {eye.name}")
    return [*found], f"{len(errors.suspects):,} of {len(pool):,} labels are doubted: {how}."


def _test_without_labels(config: RunConfig, data: TrainingData) -> ImageSet | None:
    """The images that are kept for the test, with all labels replaced by 0."""
    if not data.description["num_images"]["test"]:
        return None
    expected = data.description["sha256"]["test"]
    test = open_test_data(examined_config(config).data, data.classes, data.preprocess, expected)
    nothing = [sample.with_target(0) for sample in test.samples]
    return replace(test, samples=nothing, targets=np.zeros(len(test), np.int64))


def _shifts(train: _Part, others: Sequence[_Part], data: TrainingData, eye: Eye) -> list[Finding]:
    """Of each other split from train, and the sizes of the train pictures."""
    shown = spread(len(train.images), DECODED_PICTURES)
    statistics = image_statistics([train.images.samples[index] for index in shown])
    found = [*size_findings(statistics, [train.images.names[index] for index in shown], data.preprocess)]
    tested = [part for part in others if min(len(part.images), len(train.images)) >= LEAST_IMAGES]
    tests = [
        two_sample_test(train.features, part.features, groups=np.concatenate([train.groups, part.groups]))
        for part in tested
    ]
    for part, test, p_value in zip(tested, tests, holm([test.p_value for test in tests]) if tests else (), strict=True):
        own = image_statistics([part.images.samples[index] for index in spread(len(part.images), DECODED_PICTURES)])
        differences = compare_statistics(statistics, own)
        found += shift_findings(part.name, test, p_value, differences, part.images.names, eye.name)
    return found


# --- the page ---


def draw_page(
    page: Path, config: RunConfig, data: TrainingData, findings: Sequence[Finding], notes: Sequence[str]
) -> None:
    """Write the findings with the pictures that they name."""
    wanted = {file for finding in findings for file in finding.files[:PICTURES_SHOWN]}
    labelled = {*data.train.names, *(data.val.names if data.val is not None else ())}
    samples = {sample.source: sample for sample in all_samples(open_source(config.data)) if sample.source in wanted}
    shown = []
    for finding in findings:
        files = finding.files[:PICTURES_SHOWN]
        pictures = [_picture(file, samples.get(file), data.classes if file in labelled else None) for file in files]
        shown.append(FindingPictures(finding, tuple(pictures)))
    counts = data.description["num_images"]
    summary = [
        ("data", data.name),
        ("classes", f"{len(data.classes):,}"),
        *((name, f"{counts[name]:,} images") for name in ("train", "val", "test")),
    ]
    write_page(page, f"{data.name}: what the doctor found", summary, notes, shown)


def _picture(file: str, sample: Sample | None, classes: Sequence[str] | None) -> Picture:
    """A picture with its file name and, unless it is a test image, its label."""
    label = classes[sample.target] if classes is not None and sample is not None else None
    if sample is None:
        return Picture(file, label, None)
    try:
        image = decode(sample.image).image
    except BadImage:
        return Picture(file, label, None)
    image = image.copy()
    image.thumbnail((PICTURE_PIXELS, PICTURE_PIXELS))
    return Picture(file, label, np.asarray(image))
