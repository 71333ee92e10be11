"""Where fine-tuning starts: a network with pretrained weights, its preprocessing from its card, a new classifier."""

from __future__ import annotations

import copy
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from convcraft.config import RunConfig, TrainingConfig
from convcraft.data.preprocess import Preprocess
from convcraft.finetune.attempts import Fitted
from convcraft.finetune.trained_candidate import PassSeconds
from convcraft.models.cards import Card
from convcraft.models.classifier import classifier_names, classifiers, linear_classifier
from convcraft.models.initialise import initialise_classifier
from convcraft.models.layer_head import LayerHead
from convcraft.models.pretrained import resolve_pretrained
from convcraft.models.weights import load_weights
from convcraft.training.devices import accelerator_of, precision_of
from convcraft.training.freeze import freeze, is_part, tensor_hash
from convcraft.workflows.console import data_progress
from convcraft.workflows.load_model import build_network

TIMED_IMAGES = 8
TIMED_PASSES = 3


@dataclass(frozen=True)
class PretrainedStart:
    """config: with the network, its arguments and its preprocessing filled in."""

    config: RunConfig
    path: Path
    card: Card | None

    def network(self, classes: tuple[str, ...], preprocess: Preprocess, console: Console) -> StartNetwork:
        """Build it, load the weights, and say what was loaded, skipped and made anew.

        Raises:
            UserError: weights that do not fit, or a network that does not end in a linear layer.
        """
        torch.manual_seed(self.config.training.seed)
        model = build_network(self.config.model, classes, preprocess)
        linear_classifier(model)  # a probe must be able to stand in its place: seen now, not after the search
        console.print(str(load_weights(model, self.path)), highlight=False, markup=False)
        freeze(model, self.config.model.freeze)
        return StartNetwork(model.eval(), preprocess)


@dataclass(frozen=True)
class StartNetwork:
    """The pretrained network, of which every candidate gets a copy."""

    model: nn.Module
    preprocess: Preprocess

    def copy(self) -> nn.Module:
        """A copy with a fresh classifier, drawn from torch's seeded generator."""
        network = copy.deepcopy(self.model)
        for classifier in classifiers(network).values():
            if isinstance(classifier, nn.Linear):
                initialise_classifier(classifier)
        return network

    def pass_seconds(self, training: TrainingConfig, *, trains: bool) -> PassSeconds:
        """How long one image takes, the quickest of a few passes; for estimates before anything is trained.

        Args:
            trains: a method may train, so that its passes are worth timing; else they are said to take for ever.
        """
        place = accelerator_of(training.device)
        low = precision_of(training.precision, place) != "32-true"
        shape = (TIMED_IMAGES, self.preprocess.channels, self.preprocess.height, self.preprocess.width)
        images = torch.zeros(shape, device=place).to(memory_format=torch.channels_last)
        network = copy.deepcopy(self.model).to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        forward, training_pass = [], [math.inf]
        for _ in range(TIMED_PASSES):
            begun = time.monotonic()
            with torch.inference_mode():
                network(images).sum().item()  # waits for a GPU
            forward.append(time.monotonic() - begun)
            if not trains:
                continue
            begun = time.monotonic()
            with torch.autocast(place, torch.bfloat16, enabled=low):
                total = network(images).sum()
            total.backward()
            total.item()
            training_pass.append(time.monotonic() - begun)
        return PassSeconds(min(forward) / TIMED_IMAGES, min(training_pass) / TIMED_IMAGES)

    def freeze_report(self, result: nn.Module, fitted: Fitted) -> dict[str, Any]:
        """The ledger's report of a training; for a probe, the comparison of all tensors with the pretrained ones."""
        if "num_frozen_tensors" in fitted.freeze:
            return dict(fitted.freeze)
        body = result.network if isinstance(result, LayerHead) else result
        heads = classifier_names(self.model)
        now = dict(body.state_dict())
        frozen = {name: tensor for name, tensor in self.model.state_dict().items() if not is_part(name, heads)}
        changed = [
            name for name, tensor in frozen.items() if name not in now or tensor_hash(now[name]) != tensor_hash(tensor)
        ]
        return {
            "passed": not changed,
            "num_frozen_tensors": len(frozen),
            "changed": changed,
            "differs_in_train_mode": [],
        }


def settle_start(config: RunConfig, console: Console) -> PretrainedStart:
    """Find the weights that the settings name, and fill what the settings leave open from their card.

    Raises:
        UserError: no such weights here, and none that can be downloaded.
    """
    with data_progress(console) as progress:
        found = resolve_pretrained(config.model.name, config.model.weights, progress=progress)
    card = found.card
    told = f"; input as in {card.origin}" if card is not None and card.origin else ""
    console.print(f"weights {found.source}{told}", highlight=False, markup=False)
    # A finished run's configuration names the layers that its classifier reads; a new run chooses its own.
    changed = config.changed(model={"tapped_layers": (), "num_tapped_features": 0})
    return PretrainedStart(found.settled(changed), found.path, card)
