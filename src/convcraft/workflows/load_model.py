"""A run's network as the later commands use it."""

from __future__ import annotations

from torch import nn

from convcraft.config import ModelConfig
from convcraft.data.preprocess import Preprocess
from convcraft.errors import UserError
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
    """The network with the weights that the run stands for, on the CPU, in eval mode.

    Raises:
        UserError: weights that are damaged or do not fit the network that the settings name.
    """
    weights = load_result(run)
    model = build_network(run.config.model, run.classes, run.preprocess)
    try:
        model.load_state_dict(weights.tensors)
    except RuntimeError as error:
        name = run.config.model.name
        received = f"{weights.file} of {run.folder} does not fit {name}: {error}"
        fix = f"If the run was made with timm's {name}, before ours had that name: set model.name: timm/{name} there."
        raise UserError(received, f"the network that {run.folder}/config.yaml names", fix) from error
    return model.eval(), weights
