"""The random state of a process, to and from JSON.

Order and augmentation need none of it (they are functions of seed, epoch and sample); dropout and a user's own
layers do.
"""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch

from convcraft.training.checkpoint import DamagedCheckpoint


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the global generator is what user code may draw from
    torch.manual_seed(seed)


def capture() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state()  # noqa: NPY002
    state = {
        "torch": _encode(torch.get_rng_state()),
        "numpy": [numpy_state[0], numpy_state[1].tolist(), *numpy_state[2:]],
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [_encode(blob) for blob in torch.cuda.get_rng_state_all()]
    return state


def restore(state: dict[str, Any]) -> None:
    """Set the captured state.

    Raises:
        DamagedCheckpoint: a blob of the wrong size (torch itself does not check: pytorch issue 88949).
    """
    torch.set_rng_state(_decode(state["torch"], torch.get_rng_state().numel()))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))  # noqa: NPY002
    version, internal, gauss_next = state["python"]
    random.setstate((version, tuple(internal), gauss_next))
    if torch.cuda.is_available() and "cuda" in state:
        present = torch.cuda.get_rng_state_all()
        torch.cuda.set_rng_state_all(
            [_decode(blob, own.numel()) for blob, own in zip(state["cuda"], present, strict=False)]
        )


def _encode(blob: torch.Tensor) -> str:
    return base64.b64encode(blob.numpy().tobytes()).decode()


def _decode(text: str, num_bytes: int) -> torch.Tensor:
    data = base64.b64decode(text)
    if len(data) != num_bytes:
        raise DamagedCheckpoint(f"random state of {len(data)} bytes, this torch needs {num_bytes}")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).clone()  # a view with an offset would crash torch
