"""Seed 002's convolution beside the frameworks that are installed; TensorFlow and JAX are optional peers."""

from __future__ import annotations

from typing import Any

import pytest

from convcraft.workflows.seeds.frameworks import FRAMEWORKS, SETTINGS, compare, installed, words


@pytest.mark.parametrize("settings", SETTINGS, ids=[words(settings) for settings in SETTINGS])
@pytest.mark.parametrize(
    "name",
    [
        "torch",
        pytest.param("Keras with TensorFlow", marks=pytest.mark.peer),
        pytest.param("JAX", marks=pytest.mark.peer),
    ],
)
def test_the_same_numbers_as_a_framework(name: str, settings: dict[str, Any]) -> None:
    if name not in installed():
        pytest.skip(f"{FRAMEWORKS[name][0]} is not installed: pip install {FRAMEWORKS[name][0]}")
    gap = compare(FRAMEWORKS[name][1], settings)
    if gap is None:
        pytest.skip(f"{name} cannot compute this on a CPU")
    assert gap < 1e-12
