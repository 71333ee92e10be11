"""A bundle answers as its source does, or it does not load."""

from __future__ import annotations

import dataclasses
import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from bundle_mutants import FORGERIES, READERS, Files, batch_norms_dropped, cannot_matter, forged
from exported import made_of, small_network, source_of
from PIL import Image

from convcraft.data.preprocess import Preprocess
from convcraft.deploy.archive import write_folder, write_zip
from convcraft.deploy.bundle import CLASSES, MANIFEST, PREPROCESS, open_bundle
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.form import FEATURES
from convcraft.deploy.judges import source_outputs
from convcraft.deploy.make_bundle import MadeBundle
from convcraft.deploy.predictor import Predictor
from convcraft.deploy.probes import drawing, made_pictures
from convcraft.errors import UserError
from convcraft.evaluation.probabilities import probabilities_of
from convcraft.evaluation.trust import TRUST

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

COLOUR = Preprocess(
    height=32,
    width=32,
    channels=3,
    interpolation="bicubic",
    crop_fraction=0.875,
    mean=(0.5, 0.4, 0.3),
    std=(0.2, 0.3, 0.25),
)
GREY = Preprocess(height=28, width=28, channels=1, resize="pad", mean=(0.13,), std=(0.31,))
CLASSES_OF = tuple(f"class {label}" for label in range(7))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def colour() -> MadeBundle:
    return made_of(source_of(small_network("resnet20_cifar", 7, COLOUR), COLOUR, CLASSES_OF))


@pytest.fixture(scope="module")
def grey() -> MadeBundle:
    return made_of(source_of(small_network("lenet5", 7, GREY), GREY, CLASSES_OF))


def written(files: Files, folder: Path, *, zipped: bool = True) -> Path:
    path = folder / ("bundle.zip" if zipped else "bundle")
    (write_zip if zipped else write_folder)(path, files)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_answers_as_the_source(colour: MadeBundle, tmp_path: Path, zipped: bool) -> None:
    predictor = Predictor.open(written(colour.files, tmp_path, zipped=zipped))
    pixels = np.stack([COLOUR.pixels(drawing(seed, 60, 80)) for seed in range(100, 105)])
    source = source_of(small_network("resnet20_cifar", 7, COLOUR), COLOUR, CLASSES_OF)
    expected = source_outputs(source.network, pixels).logits
    np.testing.assert_allclose(predictor.outputs(pixels).logits, expected, atol=1e-4 * np.ptp(expected))
    [answer] = predictor.predict([drawing(100, 60, 80)])
    assert answer.ranking[0][0] == CLASSES_OF[expected[0].argmax()]
    own = probabilities_of(expected[:1], "cross_entropy")[0].max()
    assert answer.calibrated
    assert answer.ranking[0][1] != pytest.approx(own, abs=1e-6)  # the temperature is at work


def test_one_bad_picture_disturbs_no_other(colour: MadeBundle, tmp_path: Path) -> None:
    predictor = Predictor.open(written(colour.files, tmp_path))
    good, bad = predictor.predict([made_pictures(32, 32)[1].content, b"no picture"])
    assert good.problem is None
    assert bad.problem is not None


def test_pixels_in_and_features(tmp_path: Path) -> None:
    model = small_network("resnet20_cifar", 7, COLOUR)
    source = source_of(model, COLOUR, CLASSES_OF, normalises=True, features=True)
    predictor = Predictor.open(written(made_of(source).files, tmp_path))
    pixels = np.stack([COLOUR.pixels(drawing(seed, 60, 80)) for seed in range(3)])
    found = predictor.outputs(pixels)
    plain = ExportNetwork(model, COLOUR)
    expected = source_outputs(plain, pixels).logits
    np.testing.assert_allclose(found.logits, expected, atol=1e-4 * np.ptp(expected))
    kept: list[torch.Tensor] = []
    model.get_classifier().register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))  # type: ignore[operator]
    with torch.no_grad():
        model(torch.from_numpy(COLOUR.normalise(pixels)))
    assert found.features is not None
    np.testing.assert_allclose(found.features, kept[0].numpy(), atol=1e-4)


@pytest.mark.parametrize("mutant", sorted(FORGERIES))
@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_forged_bundles_are_refused(mutant: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made: MadeBundle = request.getfixturevalue(kind)
    path = written(FORGERIES[mutant](made.files), tmp_path)
    with pytest.raises(UserError):
        Predictor.open(path)


@pytest.mark.parametrize("mutant", sorted(READERS))
@pytest.mark.parametrize("kind", ["colour", "grey"])
def test_readers_that_differ_are_refused(
    mutant: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    contract = COLOUR if kind == "colour" else GREY
    if reason := cannot_matter(mutant, contract):
        pytest.skip(reason)
    made: MadeBundle = request.getfixturevalue(kind)
    path = written(made.files, tmp_path)
    with READERS[mutant](), pytest.raises(UserError, match="probe"):
        Predictor.open(path)
    Predictor.open(path)  # the refusal was not remembered, and the bundle is sound


def test_dropped_batch_norms_are_refused(colour: MadeBundle, tmp_path: Path) -> None:
    model = small_network("resnet20_cifar", 7, COLOUR)
    assert batch_norms_dropped(model)
    other = made_of(source_of(model, COLOUR, CLASSES_OF))
    files = forged(colour.files, {"model.onnx": other.files["model.onnx"]})
    with pytest.raises(UserError, match="logits differ"):
        Predictor.open(written(files, tmp_path))


@pytest.mark.parametrize("name", ["model.onnx", CLASSES, PREPROCESS, TRUST, "probes/tiny.png", "parity.json"])
def test_one_changed_byte_is_named(colour: MadeBundle, name: str, tmp_path: Path) -> None:
    content = bytearray(colour.files[name])
    content[len(content) // 2] ^= 1
    with pytest.raises(UserError, match=name):
        open_bundle(written({**colour.files, name: bytes(content)}, tmp_path))


def test_missing_and_further_files_are_named(colour: MadeBundle, tmp_path: Path) -> None:
    folder = written(colour.files, tmp_path, zipped=False)
    (folder / "extra.txt").write_text("x")
    with pytest.raises(UserError, match=r"extra\.txt"):
        open_bundle(folder)
    (folder / "extra.txt").unlink()
    (folder / CLASSES).unlink()
    with pytest.raises(UserError, match=CLASSES):
        open_bundle(folder)


def test_trust_of_another_network_is_refused(colour: MadeBundle, tmp_path: Path) -> None:
    saved = {**json.loads(colour.files[TRUST]), "weights_sha256": "1" * 64}
    with pytest.raises(UserError, match="other weights"):
        open_bundle(written(forged(colour.files, {TRUST: json.dumps(saved).encode()}), tmp_path))


def test_probes_are_remembered_for_this_bundle_alone(
    colour: MadeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(colour.files, tmp_path)
    Predictor.open(path)
    tried = []
    monkeypatch.setattr("convcraft.deploy.predictor.try_probes", lambda *_: tried.append(1) or ())
    Predictor.open(path)
    assert not tried
    Predictor.open(path, probe_again=True)
    assert len(tried) == 1
    shutil.rmtree(tmp_path / "cache")
    Predictor.open(path)
    assert len(tried) == 2


def test_a_later_bundle_version_says_so(colour: MadeBundle, tmp_path: Path) -> None:
    saved = {**json.loads(colour.files[MANIFEST]), "version": 99}
    with pytest.raises(UserError, match="version"):
        open_bundle(written({**colour.files, MANIFEST: json.dumps(saved).encode()}, tmp_path))


def test_features_need_a_last_classifier() -> None:
    class Scaled(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 2)

        def get_classifier(self) -> torch.nn.Module:
            return self.fc

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * self.fc(images.mean((2, 3)))

    with pytest.raises(UserError, match="does not come last"):
        ExportNetwork(Scaled(), COLOUR, features=True)


def test_made_pictures_are_sixteen_kinds() -> None:
    pictures = made_pictures(32, 48)
    assert len(pictures) == 16
    assert len({picture.name for picture in pictures}) == 16
    modes = {Image.open(io.BytesIO(picture.content)).mode for picture in pictures}
    assert {"L", "RGB", "RGBA", "P", "CMYK"} <= modes
    assert any(mode.startswith("I;16") or mode == "I" for mode in modes)
    assert made_pictures(32, 48) == pictures
    assert sum(len(picture.content) for picture in pictures) < 1_000_000


def test_tolerance_of_float32_is_fixed(colour: MadeBundle) -> None:
    assert colour.tolerance == 1e-4
    assert colour.parity.relative_difference <= 1e-4
    assert FEATURES not in json.loads(colour.files["parity.json"])["probes"]
    assert dataclasses.asdict(colour.parity)["agreement"] == 1
