"""The network that a run started from (fine-tuning: with its probe; compression: as it was), kept beside the result, so
that both can be compared on the test images."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from convcraft.config import ModelConfig, RunConfig
from convcraft.errors import UserError
from convcraft.finetune.proof import Spent
from convcraft.training.checkpoint import (
    CHECKPOINTS,
    MANIFEST,
    Checkpoint,
    DamagedCheckpoint,
    load_checkpoint,
    save_named,
)
from convcraft.training.run_folder import RunDescription
from convcraft.workflows.load_model import build_network

BEFORE = "before"  # the folder among the checkpoints


@dataclass(frozen=True)
class Before:
    """network: on the CPU, in eval mode; its logits are made for softmax. config: rebuilds it. sha256: of its weights.

    label, after_label: what it and the result are called. spent: what either cost to make.
    """

    network: nn.Module
    config: ModelConfig
    sha256: str
    label: str
    after_label: str
    spent: Spent


def save_before(
    run: Path, network: nn.Module, config: ModelConfig, *, label: str, after_label: str, spent: Spent
) -> str:
    """Keep a network among the checkpoints of a run; the settings that rebuild it are sealed with the weights.

    Returns:
        SHA-256 of its weights.
    """
    state = {
        "model": RunConfig(model=config).to_dict()["model"],
        "label": label,
        "after_label": after_label,
        "spent": asdict(spent),
    }
    checkpoint = Checkpoint(tensors={"model": dict(network.state_dict())}, state=state)
    return save_named(run / CHECKPOINTS, BEFORE, checkpoint)


def load_before(run: RunDescription) -> Before | None:
    """The network that `save_before` kept; None in a run that has none.

    Raises:
        UserError: its files are damaged, or do not make a network for the run's classes and images.
    """
    folder = run.folder / CHECKPOINTS / BEFORE
    if not folder.is_dir():
        return None
    try:
        saved = load_checkpoint(folder)
        config = RunConfig.from_dict({"model": saved.state["model"]}).model
        network = build_network(config, run.classes, run.preprocess)
        network.load_state_dict(saved.tensors["model"])
        spent = Spent(**saved.state["spent"])
    except (DamagedCheckpoint, KeyError, TypeError, RuntimeError) as error:
        fix = "Restore the folder; without it, the run is evaluated without the comparison."
        raise UserError(f"{folder}: {error}", "the network as it was before", fix) from error
    manifest = json.loads((folder / MANIFEST).read_bytes())
    sha256 = manifest["files"]["model.safetensors"]["sha256"]
    return Before(network.eval(), config, sha256, saved.state["label"], saved.state["after_label"], spent)
