"""The preflight that nobody asked for keeps to its time, and says what it left out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from small_run import BASE, TRAIN, VAL
from torch import Tensor, nn

from convcraft.config import RunConfig
from convcraft.data.sample import Finding
from convcraft.doctor import preflight_clock
from convcraft.doctor.preflight import preflight
from convcraft.doctor.preflight_clock import Affordable, Clock
from convcraft.tasks.classification import Classification
from convcraft.workflows import train as train_workflow

CLASSES = ("v", "h", "both")


class Slow(nn.Module):
    """A sound network that takes some time for each image; `seen` are the sizes of its batches in training mode."""

    def __init__(self, image_seconds: float, outputs: int = 3, dead: bool = False) -> None:
        super().__init__()
        self.image_seconds, self.seen, self.modes = image_seconds, [], set[bool]()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4 * 6 * 6, outputs)
        if dead:
            nn.init.zeros_(self.fc.weight)

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.image_seconds * len(images))
        self.modes.add(self.training)
        if self.training:
            self.seen.append(len(images))
        return self.fc(torch.relu(self.conv(images)).flatten(1))

    def __deepcopy__(self, memo: dict[int, Any]) -> Slow:
        twin = Slow(self.image_seconds, self.fc.out_features)
        twin.load_state_dict(self.state_dict())
        twin.seen, twin.modes = self.seen, self.modes
        return twin


def looked_at(network: nn.Module, seconds: float | None, config: RunConfig = BASE) -> tuple[tuple[Finding, ...], float]:
    """What was found, and how long it took; a run of few images, so that 5 % of it is nothing."""
    torch.manual_seed(0)
    begun = time.monotonic()
    train = TRAIN.subset(np.arange(64))
    one = config.changed(training={"epochs": 1})
    found = preflight(network, Classification(3), one, train, VAL, CLASSES, seconds=seconds)
    return found, time.monotonic() - begun


def words(found: Sequence[Finding], severity: str) -> str:
    return " ".join(finding.message for finding in found if finding.severity == severity)


def test_a_quick_network_is_tried_whole() -> None:
    network = Slow(0.0)
    found, _ = looked_at(network, 20.0)
    assert found == ()
    assert network.seen == [64]
    assert network.modes == {True, False}


def test_a_slow_network_is_tried_with_fewer_images() -> None:
    network = Slow(0.02)  # 64 images in training mode are reckoned as 7.7 s
    found, _ = looked_at(network, 2.0)
    assert len(network.seen) == 1
    assert 2 <= network.seen[0] < 20
    assert words(found, "warning") == words(found, "error") == ""
    assert f"it tried {network.seen[0]} images instead of 64" in words(found, "info")


def test_what_is_far_too_slow_is_left_out_and_named() -> None:
    network = Slow(0.1)
    found, seconds = looked_at(network, 0.8)
    assert seconds < 3.0  # 0.5 on a quiet machine; 64 images in training mode alone would sleep for 6.4
    assert network.seen == []
    assert "outputs, loss and gradients were not tried." in words(found, "warning")
    assert "evaluation" not in words(found, "warning")
    found, _ = looked_at(Slow(0.1), 0.2)
    assert "were not tried, nor evaluation mode" in words(found, "warning")


def test_without_a_clock_all_is_tried_however_long_it_takes() -> None:
    network = Slow(0.005)
    assert looked_at(network, None)[0] == ()
    assert network.seen == [64]


def test_defects_are_found_with_few_images() -> None:
    found, _ = looked_at(Slow(0.02, outputs=2), 2.0)
    assert "2 outputs for 3 classes" in words(found, "error")


def test_layers_without_gradient_are_named_where_there_is_no_time_to_try_them() -> None:
    assert looked_at(Slow(0.0, dead=True), None)[0] == ()  # a fresh head of zeros is meant
    found, _ = looked_at(Slow(0.02, dead=True), 2.0)
    assert "no gradient reaches conv in the first step" in words(found, "warning")


def test_a_long_run_may_be_examined_longer() -> None:
    clock = Clock(2.0, run_passes=100_000)
    assert clock.left(0.01) == pytest.approx(50.0, abs=0.1)
    assert clock.left(0.0001) == pytest.approx(2.0, abs=0.1)
    assert clock.affordable(64, 0.01) == Affordable(64, evaluates=True)
    assert Clock(2.0).affordable(64, 0.01) == Affordable(32, evaluates=True)


def test_large_batches_count_as_what_they_cost() -> None:
    """A pass takes 20 ms however many images it has: 64 of them are no 1.3 s."""

    class Constant(Slow):
        def forward(self, images: Tensor) -> Tensor:
            time.sleep(0.02)
            return self.fc(self.conv(images).flatten(1))

    seconds = Clock(2.0).image_seconds(Constant(0.0), torch.zeros(64, 1, 8, 8))
    assert seconds < 0.002


def test_train_and_finetune_put_the_clock_on(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(train_workflow, "preflight", lambda *_, **named: given.update(named) or ())

    class Data:
        train, val, classes = TRAIN, VAL, CLASSES

    train_workflow.preflight_in_time(nn.Identity(), Classification(3), BASE, Data(), None)  # type: ignore[arg-type]
    assert given == {"card": None, "seconds": preflight_clock.AUTOMATIC_SECONDS}
    assert preflight_clock.AUTOMATIC_SECONDS <= 2.0
