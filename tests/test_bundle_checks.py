"""A bundle is not believed beyond what an export could have said; odd files end in UserError."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from bundle_mutants import Files, forged
from exported import made_of, small_network, source_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load, save

from convcraft.data.preprocess import Preprocess
from convcraft.deploy.archive import write_zip
from convcraft.deploy.bundle import (
    CARD,
    CLASSES,
    EXPECTED,
    MANIFEST,
    PARITY,
    PREPROCESS,
    Bundle,
    described,
    open_bundle,
)
from convcraft.deploy.formats.form import FEATURES, LOGITS, Runtime, Session
from convcraft.deploy.machine import fingerprint, processor_name, versions
from convcraft.deploy.predictor import open_session
from convcraft.deploy.probe_check import feature_differences, refuse_failed, try_probes
from convcraft.errors import UserError
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.trust import TENSORS, TRUST
from convcraft.evaluation.unknown import fit_mahalanobis, fit_neighbours

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

GREY = Preprocess(height=28, width=28, channels=1, resize="pad", mean=(0.13,), std=(0.31,))
CLASSES_OF = tuple(f"class {label}" for label in range(7))
WIDTH = 84  # of lenet5's features
ODD = (None, True, -1, 10**30, 0.5, float("nan"), "x", "\ud800", [], {}, [1], ["x"], {"x": 1}, [[None]])


@pytest.fixture(scope="module")
def files() -> Files:
    return made_of(source_of(small_network("lenet5", 7, GREY), GREY, CLASSES_OF)).files


@pytest.fixture(scope="module")
def with_features() -> Files:
    return made_of(source_of(small_network("lenet5", 7, GREY), GREY, CLASSES_OF, features=True)).files


@pytest.fixture(scope="module")
def measuring(with_features: Files) -> Files:
    return with_distance(with_features, "relative_mahalanobis", None, relative=True)


def opened(files: Files) -> Bundle:
    with mock.patch("convcraft.deploy.bundle.read_files", return_value=files):
        return open_bundle(Path(__file__))


def changed_json(files: Files, name: str, **entries: object) -> Files:
    return forged(files, {name: json.dumps({**json.loads(files[name]), **entries}).encode()})


def manifest_with(files: Files, **entries: object) -> Files:
    return {**files, MANIFEST: json.dumps({**json.loads(files[MANIFEST]), **entries}).encode()}


def with_distance(
    files: Files, score: str, tensors: dict[str, NDArray[Any]] | None, *, width: int = WIDTH, relative: bool = False
) -> Files:
    """The bundle with a trust that measures a distance; tensors: None: those that the score needs."""
    rows = np.random.default_rng(0).normal(size=(40, width)).astype(np.float32)
    if tensors is None:
        neighbours = score == "nearest_neighbours"
        scorer = fit_neighbours(rows) if neighbours else fit_mahalanobis(rows, np.arange(40) % 4, relative=relative)
        tensors = scorer.tensors()
    saved = json.loads(files[TRUST])
    saved["rule"]["unknown"] = {"score": score, "value": 9.0, "false_reject": 0.05, "num_images": 100}
    content = save(tensors)
    saved["tensors_sha256"] = hashlib.sha256(content).hexdigest()
    return forged(files, {TRUST: json.dumps(saved).encode(), TENSORS: content})


# What an export would not have said -------------------------------------------------------------------------------


@pytest.mark.parametrize("tolerance", [1.1e-4, 0.01, 1.0])
def test_float32_is_held_to_what_an_export_holds_it_to(files: Files, tolerance: float) -> None:
    with pytest.raises(UserError, match="tolerance"):
        opened(forged(files, {}, tolerance=tolerance))


def test_low_precision_has_a_largest_tolerance(files: Files) -> None:
    assert opened(forged(files, {}, precision="int8", tolerance=0.5)).manifest.tolerance == 0.5
    with pytest.raises(UserError, match="tolerance"):
        opened(forged(files, {}, precision="int8", tolerance=0.51))


def test_features_are_compared_by_their_length() -> None:
    expected = np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 5.0]], np.float32)
    got = expected + np.array([[0.0, 0.0, 1.0], [0.6, 0.8, 0.0]], np.float32) * np.float32(2)
    np.testing.assert_allclose(feature_differences(expected, got), [0.2, 0.2], rtol=1e-6)
    assert feature_differences(np.zeros((2, 3), np.float32), got).min() > 1e30  # nothing was expected


@pytest.mark.parametrize("precision", ["float64", "INT8", ""])
def test_a_precision_that_the_format_has_not(files: Files, precision: str) -> None:
    with pytest.raises(UserError, match="onnx in"):
        opened(forged(files, {}, precision=precision))


def test_another_or_an_unknown_loss(files: Files) -> None:
    for loss in ("bce", "mse"):
        with pytest.raises(UserError, match="loss"):
            opened(forged(files, {}, loss=loss))
    without = {name: content for name, content in files.items() if name != TRUST}
    assert opened(forged(without, {}, loss="bce")).trust is None
    with pytest.raises(UserError, match="hinge"):
        opened(forged(without, {}, loss="hinge"))


def test_sets_of_another_number_of_classes(files: Files) -> None:
    rule = json.loads(files[TRUST])["rule"]
    assert rule["conformal"]["num_classes"] == 7
    rule["conformal"]["num_classes"] = 8
    with pytest.raises(UserError, match="8 classes"):
        opened(changed_json(files, TRUST, rule=rule))


@pytest.mark.parametrize("score", ["mahalanobis", "relative_mahalanobis", "nearest_neighbours"])
def test_distances_need_their_tensors(with_features: Files, score: str) -> None:
    relative = score.startswith("relative")
    sound = with_distance(with_features, score, None, relative=relative)
    trust = opened(sound).trust
    assert trust is not None
    assert trust.needs_features
    with pytest.raises(UserError, match="without tensors"):
        opened(changed_json(sound, TRUST, tensors_sha256=None))
    with pytest.raises(UserError, match="without trust"):
        opened(forged({name: content for name, content in sound.items() if name != TENSORS}, {}))


def test_distances_need_features_of_their_width(files: Files, with_features: Files) -> None:
    with pytest.raises(UserError, match="gives 84"):
        opened(with_distance(with_features, "nearest_neighbours", None, width=WIDTH - 1))
    with pytest.raises(UserError, match="gives none"):
        opened(with_distance(files, "nearest_neighbours", None))


def test_tensors_that_are_not_those_of_the_score(with_features: Files) -> None:
    bank = np.ones((3, WIDTH), np.float32)
    for score, tensors in [
        ("energy", {"bank": bank, "neighbour": np.array([1])}),
        ("nearest_neighbours", {"bank": bank, "neighbour": np.array([4])}),
        ("nearest_neighbours", {"bank": bank, "neighbour": np.array([], np.int64)}),
        ("nearest_neighbours", {"bank": bank.astype(np.float64), "neighbour": np.array([1])}),
        ("nearest_neighbours", {"bank": np.full_like(bank, np.nan), "neighbour": np.array([1])}),
        ("mahalanobis", {"means": bank, "whitening": bank, "shrinkage": np.ones(1, np.float32)}),
    ]:
        with pytest.raises(UserError):
            opened(with_distance(with_features, score, tensors))
    with pytest.raises(UserError, match="another score"):
        opened(with_distance(with_features, "mahalanobis", None, relative=True))


# Odd files ---------------------------------------------------------------------------------------------------------


def test_a_card_that_is_no_text(files: Files) -> None:
    with pytest.raises(UserError, match="UTF-8"):
        opened(forged(files, {CARD: b"\xff\xfe"}))


@pytest.mark.parametrize("rule", [1, "x", [], None])
def test_a_rule_that_is_no_object(files: Files, rule: object) -> None:
    with pytest.raises(UserError):
        opened(changed_json(files, TRUST, rule=rule))


@pytest.mark.parametrize("name", ["weights_sha256", "preprocess_sha256"])
def test_a_hash_that_is_a_number(files: Files, name: str) -> None:
    with pytest.raises(UserError):
        opened(changed_json(files, TRUST, **{name: 1}))


@pytest.mark.parametrize(
    ("name", "value"),
    [("source", [1]), ("made_with", []), ("made_with", {"torch": 1}), ("created", 5), ("created", "yesterday")],
)
def test_entries_of_another_kind(files: Files, name: str, value: object) -> None:
    with pytest.raises(UserError):
        opened(manifest_with(files, **{name: value}))


def test_parity_that_is_no_object(files: Files) -> None:
    with pytest.raises(UserError, match=PARITY):
        opened(forged(files, {PARITY: b"[1]"}))


def test_expected_answers_are_finite(files: Files) -> None:
    expected = load(files[EXPECTED])
    for logits in (expected[LOGITS] * np.nan, expected[LOGITS].astype(np.float64)):
        with pytest.raises(UserError):
            opened(forged(files, {EXPECTED: save({**expected, LOGITS: logits})}))


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value, itself included."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in entries for place in places(inner, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], other: Any) -> Any:
    if not path:
        return other
    copied = dict(value) if isinstance(value, dict) else list(value)
    copied[path[0]] = replaced(value[path[0]], path[1:], other)
    return copied


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_odd_entries_are_taken_or_refused(measuring: Files, data: st.DataObject) -> None:
    files = measuring
    name = data.draw(st.sampled_from([MANIFEST, TRUST, CLASSES, PREPROCESS, PARITY]))
    saved = json.loads(files[name])
    path, other = data.draw(st.sampled_from(places(saved))), data.draw(st.sampled_from(ODD))
    content = json.dumps(replaced(saved, path, other)).encode()
    odd = {**files, MANIFEST: content} if name == MANIFEST else forged(files, {name: content})
    try:
        bundle = opened(odd)
    except UserError as error:
        str(error).encode()
        return
    assert bundle.trust is not None
    outputs = Outputs(bundle.expected_logits, bundle.expected_features)
    try:
        bundle.trust.judge(outputs)
    except UserError as error:
        str(error).encode()


# Batches -----------------------------------------------------------------------------------------------------------


def test_probes_are_sent_in_batches_as_well(files: Files, tmp_path: Path) -> None:
    write_zip(tmp_path / "b.zip", files)
    bundle = open_bundle(tmp_path / "b.zip")
    session = open_session(bundle, Runtime())
    sizes: list[int] = []

    def wrong_from(size: int) -> Session:
        def run(images: NDArray[np.generic]) -> Outputs:
            sizes.append(len(images))
            found = session(images)
            return Outputs(found.logits * (1 if len(images) < size else 1.01), found.features)

        return run

    results = try_probes(bundle, wrong_from(1000), 5)
    assert all(result.problem is None for result in results)
    assert set(sizes) == {1, 5, 16}
    assert [result.got for result in results] == [probe.label for probe in bundle.manifest.probes]
    for size, batch_size in ((16, 16), (5, 5), (40, 40)):
        with pytest.raises(UserError, match="at a time"):
            refuse_failed(bundle, try_probes(bundle, wrong_from(size), batch_size))


def test_features_of_batches_count(with_features: Files, tmp_path: Path) -> None:
    write_zip(tmp_path / "b.zip", with_features)
    bundle = open_bundle(tmp_path / "b.zip")
    session = open_session(bundle, Runtime())

    def run(images: NDArray[np.generic]) -> Outputs:
        found = session(images)
        assert found.features is not None
        return Outputs(found.logits, found.features + (len(images) > 1))

    with pytest.raises(UserError, match="features differ"):
        refuse_failed(bundle, try_probes(bundle, run))
    assert FEATURES in load(with_features[EXPECTED])


# The machine -------------------------------------------------------------------------------------------------------


def test_a_bundle_does_not_describe_the_machine(files: Files) -> None:
    made_with = json.loads(files[MANIFEST])["made_with"]
    assert not made_with.keys() & {"system", "processor", "cores"}
    assert {"python", "convcraft", "numpy", "pillow", "onnxruntime", "torch"} <= made_with.keys()


def test_what_is_remembered_is_of_this_machine_and_its_versions() -> None:
    assert {"system", "processor", "cores", "numpy", "timm"} <= fingerprint("onnxruntime").keys()
    assert "no-such-package" not in versions("no-such-package")


def test_processors_have_names_on_arm_too(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    core = "processor\t: {}\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {}\n\n"
    cpuinfo.write_text(core.format(0, "0xd0b") + core.format(1, "0xd05") + core.format(2, "0xd05"))
    assert processor_name(cpuinfo) == "ARM 0x41 0xd05, 0x41 0xd0b"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n")
    assert processor_name(cpuinfo) == "Some CPU @ 2 GHz"


def test_the_hashes_of_forged_bundles_are_right(files: Files) -> None:
    said = json.loads(forged(files, {CARD: b"other"})[MANIFEST])["files"]
    assert said[CARD] == described({CARD: b"other"})[CARD]
    assert dataclasses.is_dataclass(opened(forged(files, {CARD: b"other"})))
