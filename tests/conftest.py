"""Shared fixtures: where the real data lies, if it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data sets (mnist/, cifar10/, hymenoptera/, weights/), or a skip that says how to name it."""
    named = os.environ.get("CONVCRAFT_DATA")
    place = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not (place / "mnist").is_dir():
        pytest.skip(f"no real data at {place}: set CONVCRAFT_DATA to a folder with mnist/, cifar10/, hymenoptera/")
    return place
