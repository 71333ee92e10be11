"""Settings and the card of their weights: what is left open is filled, in one way for training, doctor and summary.

Fine-tuning settles its start by the same `Pretrained.settled`, and tells more of it (`pretrained_start`).
"""

from __future__ import annotations

from pathlib import Path

from convcraft.config import RunConfig
from convcraft.models.cards import Card
from convcraft.models.pretrained import find_card, resolve_pretrained


def with_card(config: RunConfig) -> RunConfig:
    """Fill what the settings leave open from the card of their weights: preprocessing and model arguments.

    Raises:
        UserError: no such weights, or weights of another network.
    """
    if config.model.weights is None:
        return config
    return resolve_pretrained(config.model.name, config.model.weights).settled(config)


def card_of(config: RunConfig) -> Card | None:
    """The card of the weights that the settings start from, as `with_card` found it."""
    weights = config.first_weights
    return None if weights is None else find_card(Path(weights), config.model.name)
