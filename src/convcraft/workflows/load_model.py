"""A run's network as the later commands use it."""

from __future__ import annotations

from torch import nn

from convcraft.models.build import build_model
from convcraft.training.run_folder import ResultWeights, RunDescription, load_result


def load_model(run: RunDescription) -> tuple[nn.Module, ResultWeights]:
    """The network with the weights that the run stands for, on the CPU, in eval mode."""
    weights = load_result(run)
    preprocess = run.preprocess
    model = build_model(
        run.config.model,
        num_classes=len(run.classes),
        in_channels=preprocess.channels,
        image_size=(preprocess.height, preprocess.width),
    )
    model.load_state_dict(weights.tensors)
    return model.eval(), weights
