"""A run's network as the later commands use it."""

from __future__ import annotations

from torch import nn

from convcraft.config import ModelConfig
from convcraft.data.preprocess import Preprocess
from convcraft.models.build import build_model
from convcraft.training.run_folder import ResultWeights, RunDescription, load_result


def build_network(config: ModelConfig, classes: tuple[str, ...], preprocess: Preprocess) -> nn.Module:
    """The configured network for a run's classes and images; its start values come from torch's seeded generator."""
    return build_model(
        config,
        num_classes=len(classes),
        in_channels=preprocess.channels,
        image_size=(preprocess.height, preprocess.width),
    )


def load_model(run: RunDescription) -> tuple[nn.Module, ResultWeights]:
    """The network with the weights that the run stands for, on the CPU, in eval mode."""
    weights = load_result(run)
    model = build_network(run.config.model, run.classes, run.preprocess)
    model.load_state_dict(weights.tensors)
    return model.eval(), weights
