"""A run's network as `predict` asks it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from convcraft.data.preprocess import Preprocess
from convcraft.evaluation.outputs import Outputs
from convcraft.evaluation.trust import Trust, load_trust
from convcraft.training.devices import accelerator_of
from convcraft.training.run_folder import read_run
from convcraft.workflows.load_model import load_model
from convcraft.workflows.network_outputs import as_features, maybe_inputs

BATCH_SIZE = 64


class RunNetwork:
    """The result weights of a run, with its trust where it has one (`deploy.answering.Answering`)."""

    batch_size = BATCH_SIZE

    def __init__(self, run: Path, device: str = "auto") -> None:
        """
        Raises:
            UserError: no such run, damaged weights, or a trust.json of other weights.
        """
        self.run = read_run(run)
        model, weights = load_model(self.run)
        self._trust = load_trust(run, weights.sha256, self.run.preprocess.hash())
        self.place = accelerator_of(device)
        self.model = model.to(self.place)

    @property
    def preprocess(self) -> Preprocess:
        return self.run.preprocess

    @property
    def classes(self) -> tuple[str, ...]:
        return self.run.classes

    @property
    def loss(self) -> str:
        return self.run.config.training.loss

    @property
    def trust(self) -> Trust | None:
        return self._trust

    def outputs(self, pixels: NDArray[np.uint8]) -> Outputs:
        """Of images uint8 [B, H, W, C]; with features where the trust needs them."""
        wanted = self.trust is not None and self.trust.needs_features
        with torch.inference_mode(), maybe_inputs(self.model, wanted) as kept:
            logits = self.model(torch.from_numpy(self.preprocess.normalise(pixels)).to(self.place))
        return Outputs(logits.float().cpu().numpy(), as_features(kept))
