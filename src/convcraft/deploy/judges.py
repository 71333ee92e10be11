"""The images that an export is judged on, and what source and export say of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from convcraft.deploy.export_network import ExportNetwork
from convcraft.deploy.formats.form import BATCH_SIZE, Session
from convcraft.evaluation.outputs import Outputs


@dataclass(frozen=True, eq=False)
class Judges:
    """Real images that an export is compared on. pixels: uint8 [N, H, W, C]. targets: int64 [N].

    held_out: the network has not learned from them. groups: name -> bool [N], judged beside the classes.
    """

    name: str
    pixels: NDArray[np.uint8]
    targets: NDArray[np.int64]
    held_out: bool
    groups: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


def source_outputs(network: ExportNetwork, pixels: NDArray[np.uint8]) -> Outputs:
    """What torch says of pixels uint8 [N, H, W, C], in float32: the logits of the run's own network, nothing folded."""
    logits, features = [], []
    with torch.inference_mode():
        for start in range(0, len(pixels), BATCH_SIZE):
            part = pixels[start : start + BATCH_SIZE]
            answer = network.source(torch.from_numpy(network.preprocess.normalise(part)))
            logits.append(answer if isinstance(answer, Tensor) else answer[0])
            if network.classifier is not None:
                features.append(network(torch.from_numpy(np.ascontiguousarray(network.inputs_of(part))))[1])
    return Outputs(torch.cat(logits).numpy(), torch.cat(features).numpy() if features else None)


def session_outputs(session: Session, network: ExportNetwork, pixels: NDArray[np.uint8]) -> Outputs:
    """What the exported network says of them."""
    starts = range(0, len(pixels), BATCH_SIZE)
    return Outputs.joined([session(network.inputs_of(pixels[start : start + BATCH_SIZE])) for start in starts])
