"""An int8 network that is right on average and wrong on one class is rejected; giving its layer back mends it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection

import numpy as np
import pytest
import torch
from exported import made_of, source_of
from numpy.typing import NDArray
from torch import Tensor, nn

from convcraft.data.preprocess import Preprocess
from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.catalogue import find_format
from convcraft.deploy.formats.form import Format
from convcraft.deploy.gated_files import gated_files
from convcraft.deploy.judges import Judges, source_outputs
from convcraft.errors import UserError

pytest.importorskip("onnxscript", reason="exporting needs the export extra")

CONTRACT = Preprocess(height=16, width=16, channels=3, mean=(0.5,), std=(0.25,))
CLASSES = tuple(f"class {label}" for label in range(6))
VICTIM = 0


class WithOutlier(nn.Module):
    """One class has a huge weight for a feature that is never there: rounded to 127 steps of it, its others vanish."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.fc = nn.Linear(25, len(CLASSES))
        with torch.no_grad():
            self.fc.weight.mul_(8)
            self.fc.weight[VICTIM, 24] = 4000.0

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.conv(images)).mean((2, 3))
        return self.fc(torch.cat([features, torch.zeros_like(features[:, :1])], dim=1))


@pytest.fixture(scope="module")
def network() -> ExportNetwork:
    model = WithOutlier().eval()
    pixels = _pixels()
    with torch.no_grad():  # each class is somebody's answer
        logits = model(torch.from_numpy(CONTRACT.normalise(pixels)))
        model.fc.bias -= logits.mean(0)
    return ExportNetwork(model, CONTRACT)


def _pixels() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (600, 1, 1, 3))
    return np.clip(base + rng.normal(0, 25, (600, 16, 16, 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def judges(network: ExportNetwork) -> Judges:
    pixels = _pixels()
    labels = source_outputs(network, pixels).logits.argmax(axis=1)
    assert np.bincount(labels, minlength=6).min() >= 5
    return Judges("600 images", pixels, labels, held_out=True)


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_the_layer_that_hurts_a_class_is_given_back(name: str, network: ExportNetwork, judges: Judges) -> None:
    pytest.importorskip("nncf" if name == "openvino" else "onnxruntime")
    calibration = network.inputs_of(judges.pixels[:100])
    found = gated_files(
        network, find_format(name), "int8", CLASSES, judges, source_outputs(network, judges.pixels), calibration
    )
    assert found.gate is not None
    assert found.gate.passed
    assert any("fc" in layer or "classifier" in layer for layer in found.kept)
    assert found.gate.agreement > 0.9


def test_without_repair_it_is_rejected_with_the_table(network: ExportNetwork, judges: Judges) -> None:
    onnx = find_format("onnx")

    def stubborn(source: ExportNetwork, images: NDArray[np.generic]) -> object:
        quantise = onnx.quantiser
        assert quantise is not None
        made = quantise(source, images)
        return lambda _kept: made(())

    form = dataclasses.replace(onnx, quantiser=stubborn)
    with pytest.raises(UserError) as caught:
        gated_files(
            network,
            form,
            "int8",
            CLASSES,
            judges,
            source_outputs(network, judges.pixels),
            network.inputs_of(judges.pixels[:100]),
        )
    assert f"class {CLASSES[VICTIM]}" in caught.value.received
    assert "worse" in caught.value.received
    assert "all images" in caught.value.received  # the table


def test_equal_on_average_and_thirty_points_worse_in_one_class(network: ExportNetwork, judges: Judges) -> None:
    """The mean hides it: the other classes gain what one loses."""
    rng = np.random.default_rng(2)
    truth = judges.targets.copy()
    victims = np.flatnonzero(truth == VICTIM)
    others = np.flatnonzero(truth != VICTIM)
    num_lost = round(0.3 * len(victims))
    wrong_before = rng.choice(others, num_lost, replace=False)
    targets = truth.copy()
    targets[wrong_before] = (truth[wrong_before] + 1) % 6  # the source is wrong there
    answers = truth.copy()
    answers[rng.choice(victims, num_lost, replace=False)] = 1
    answers[wrong_before] = targets[wrong_before]
    assert (answers == targets).mean() == pytest.approx((truth == targets).mean())
    form = _answering(answers, truth)
    crafted = dataclasses.replace(judges, targets=targets)
    found = gated_files(
        network,
        form,
        "int8",
        CLASSES,
        crafted,
        source_outputs(network, judges.pixels),
        network.inputs_of(judges.pixels[:8]),
    )
    assert found.kept == ("conv",) or len(found.kept) == 1
    with pytest.raises(UserError, match=f"class {CLASSES[VICTIM]}"):
        gated_files(
            network,
            dataclasses.replace(form, quantiser=None),
            "int8",
            CLASSES,
            crafted,
            source_outputs(network, judges.pixels),
            network.inputs_of(judges.pixels[:8]),
        )


def _answering(int8: NDArray[np.int64], kept: NDArray[np.int64]) -> Format:
    """A format whose network gives these answers: in int8, and with any layer in floating point."""
    from convcraft.evaluation.outputs import Outputs

    def quantise(layers: Collection[str]) -> dict[str, bytes]:
        return {"model.onnx": b"kept" if layers else b"int8"}

    def opened(files: dict[str, bytes], _precision: str, _runtime: object) -> object:
        answers = kept if files["model.onnx"] == b"kept" else int8
        place = 0

        def run(images: NDArray[np.generic]) -> Outputs:
            nonlocal place
            part = answers[place : place + len(images)]
            place += len(images)
            return Outputs(np.eye(6, dtype=np.float32)[part])

        return run

    return dataclasses.replace(
        find_format("onnx"),
        write=lambda _network, _images, _precision: quantise(()),
        quantiser=lambda _network, _images: quantise,
        open=opened,
    )


@pytest.fixture(scope="module")
def scattered(judges: Judges) -> tuple[Format, Judges]:
    """In int8 just images of one group are lost, some of each class; others are gained, so that the mean stays."""
    rng = np.random.default_rng(3)
    truth = judges.targets.copy()
    night = np.zeros(len(truth), bool)
    for label in range(len(CLASSES)):  # every class is there at night
        here = np.flatnonzero(truth == label)
        night[rng.choice(here, max(2, len(here) // 15), replace=False)] = True
    lost = rng.choice(np.flatnonzero(night), 12, replace=False)
    regained = rng.choice(np.flatnonzero(~night), 12, replace=False)
    targets, int8 = truth.copy(), truth.copy()
    targets[regained] = int8[regained] = (truth[regained] + 1) % len(CLASSES)  # only int8 is right there
    int8[lost] = (truth[lost] + 1) % len(CLASSES)
    declared = {"night": night, "day": ~night, "dawn": np.zeros_like(night)}
    return _answering(int8, truth), dataclasses.replace(judges, targets=targets, groups=declared)


def test_a_group_that_pays_across_classes_is_found_where_it_is_declared(
    network: ExportNetwork, scattered: tuple[Format, Judges]
) -> None:
    form, declared = scattered
    outputs, calibration = source_outputs(network, declared.pixels), network.inputs_of(declared.pixels[:8])
    unseen = gated_files(network, form, "int8", CLASSES, dataclasses.replace(declared, groups={}), outputs, calibration)
    assert unseen.kept == ()
    assert unseen.gate is not None
    assert unseen.gate.passed
    assert abs(unseen.gate.overall.difference) < 1e-9
    mended = gated_files(network, form, "int8", CLASSES, declared, outputs, calibration)
    assert len(mended.kept) == 1
    assert mended.gate is not None
    assert [part.name for part in mended.gate.groups] == ["group night", "group day"]
    assert "Not judged, without an image: group dawn." in mended.gate.sentences
    stubborn = dataclasses.replace(form, quantiser=None)
    with pytest.raises(UserError, match="group night") as caught:
        gated_files(network, stubborn, "int8", CLASSES, declared, outputs, calibration)
    table = caught.value.received.splitlines()[1:]
    assert table[1].split()[:2] == ["group", "night"]  # the largest loss stands first
    assert table[1].endswith("worse")
    assert {line.index("verdict") for line in table[:1]} == {table[1].index("worse")}  # columns stand below each other


class DayAndNight(nn.Module):
    """Day pictures fill the left half and night pictures the right one; either half has a classifier of its own.

    That of the night has huge weights for a feature that is never there, as in `WithOutlier`.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv = nn.Conv2d(3, 24, 3, bias=False)
        self.day, self.night = nn.Linear(24, len(CLASSES)), nn.Linear(25, len(CLASSES), bias=False)
        with torch.no_grad():
            self.day.weight.mul_(8)
            self.night.weight.zero_()
            self.night.weight[:, :24] = self.day.weight
            self.night.weight[:, 24] = 1500.0

    def get_classifier(self) -> nn.Module:
        return self.day

    def forward(self, images: Tensor) -> Tensor:
        maps = torch.relu(self.conv(images))  # [B, 24, 14, 14]; black gives 0
        left, right = maps[..., :7].mean((2, 3)), maps[..., 7:].mean((2, 3))
        return self.day(left) + self.night(torch.cat([right, torch.zeros_like(right[:, :1])], dim=1))


def test_int8_that_hurts_a_group_of_all_classes_is_mended_where_the_group_is_declared() -> None:
    """The mean moves by less than its margin, and no class stands out: only the group tells."""
    contract = dataclasses.replace(CONTRACT, mean=(0.0,), std=(1.0,))
    model, pixels = DayAndNight().eval(), _pixels()
    is_night = np.arange(len(pixels)) % 60 == 0
    pixels[is_night, :, :9] = 0
    pixels[~is_night, :, 7:] = 0
    with torch.no_grad():  # each class is somebody's answer
        model.day.bias -= model(torch.from_numpy(contract.normalise(pixels))).mean(0)
    network = ExportNetwork(model, contract)
    best = np.sort(source_outputs(network, pixels).logits, axis=1)
    clear = is_night | (best[:, -1] - best[:, -2] > 0.1)  # by day nothing hangs on a rounding
    pixels, is_night = pixels[clear], is_night[clear]
    outputs = source_outputs(network, pixels)
    labels = outputs.logits.argmax(axis=1)
    assert len(set(labels[is_night])) >= 4
    blind = Judges("images", pixels, labels, held_out=True)
    declared = dataclasses.replace(blind, groups={"night": is_night})
    calibration, onnx = network.inputs_of(pixels[:80]), find_format("onnx")
    passed = gated_files(network, onnx, "int8", CLASSES, blind, outputs, calibration)
    assert passed.kept == ()
    mended = gated_files(network, onnx, "int8", CLASSES, declared, outputs, calibration)
    assert mended.kept
    assert mended.gate is not None
    assert mended.gate.groups[0].verdict != "worse"


def test_a_bundle_in_low_precision_has_a_trust_of_its_own(network: ExportNetwork, judges: Judges) -> None:
    source = source_of(network.source, CONTRACT, CLASSES)
    declared = dataclasses.replace(judges, groups={"first half": np.arange(600) < 300})
    made = made_of(source, "onnx", "int8", declared)
    assert made.gate is not None
    gate = json.loads(made.files["parity.json"])["gate"]  # which judges the group as well
    assert {part["name"]: part["verdict"] for part in gate["parts"]}["group first half"] == "no worse"
    assert made.files["trust.json"] != source.trust["trust.json"]
    unseen = dataclasses.replace(judges, held_out=False)
    assert made_of(source, "onnx", "int8", unseen).files["trust.json"] == source.trust["trust.json"]
    assert made_of(source, "onnx", "float32", judges).files["trust.json"] == source.trust["trust.json"]
