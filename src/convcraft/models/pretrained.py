"""The weights that a person asks for: a file, weights that come with the package, or published ones by their network.

Published weights are looked for on this machine first, and downloaded to the user's cache when they are nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from convcraft.config import RunConfig
from convcraft.data.sample import Progress
from convcraft.data.user_cache import user_cache_dir
from convcraft.errors import UserError
from convcraft.models.build import OWN_MODELS, TIMM_PREFIX
from convcraft.models.cards import Card, read_card
from convcraft.models.published import WEIGHTS, Published, fetch, own_folders, places, published_files, timm_name
from convcraft.models.published_cards import card_of_timm, card_of_torchvision
from convcraft.models.weights import KERAS

SHIPPED = Path(__file__).parent / "shipped"  # NAME.safetensors with its card NAME.json


@dataclass(frozen=True)
class Pretrained:
    """Weights to start from.

    path: the file, for `load_weights`.
    source: what it is and where it was found, for people.
    card: what the network is and how its input is prepared; None where nothing says it.
    architecture: the network to build, with `card.model_args`.
    """

    path: Path
    source: str
    card: Card | None
    architecture: str

    def settled(self, config: RunConfig) -> RunConfig:
        """The settings with this network and file, and what they leave open of arguments and preprocessing as the card
        has it. Training, fine-tuning and the doctor all settle theirs here."""
        args = {**(self.card.model_args if self.card is not None else {}), **config.model.args}
        changed = config.changed(model={"name": self.architecture, "weights": str(self.path), "args": args})
        if self.card is None:
            return changed
        return changed.changed(preprocess=self.card.preprocess_settings(config.preprocess))


def resolve_pretrained(
    model_name: str | None,
    weights: str | None = None,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> Pretrained:
    """The pretrained weights that a person asked for, on this machine afterwards.

    Args:
        model_name: one of our networks or timm's (with or without the tag of its weights), or the name of weights that
            come with the package; None takes the network that the weights' card names.
        weights: a file, or the name of weights that come with the package; None looks for the published weights of
            `model_name`.
        cache_dir: where downloads are kept, instead of the user's cache.
        progress: of a download.

    Raises:
        UserError: no such file or name, weights of another network, or nothing to be had: then the message lists the
            places that were looked at, and which file to put where.
    """
    if weights is None and model_name in shipped_names():
        model_name, weights = None, model_name
    if weights is not None:
        return _named_weights(model_name, weights)
    if model_name is None:
        raise UserError("neither a network nor weights", "one of them", "Name them with --model or --weights.")
    return _published_weights(model_name, cache_dir or user_cache_dir() / WEIGHTS, progress)


def shipped_names() -> tuple[str, ...]:
    """The names of the weights that come with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.safetensors")))


def find_card(path: Path, model_name: str | None) -> Card | None:
    """The card of a weights file: beside it, known by its checksum, or what is usual for its network.

    Where the usual card is not known to be this file's own, it `stands_in`: its `origin` says so, and it claims no
    names of classes. Weights of Keras want what Keras feeds the network, never what a publisher of torch weights does.

    Args:
        path: of the weights.
        model_name: the network that they are for, if known.

    Raises:
        UserError: a card that cannot be used, or no network of this name.
    """
    card = read_card(path)
    if card is not None:
        return card
    if path.suffix.lower() in KERAS:
        return _card_of_keras(path)
    published = None if model_name is None else _published_card(model_name)
    if published is None or model_name is None or _is_published(path, model_name):
        return published
    origin = f"{published.origin}, as {path.name} has no card of its own"
    return replace(published, label_names=None, origin=origin, stands_in=True)


def _is_published(path: Path, model_name: str) -> bool:
    """Whether the file has the name, and the checksum in it, of the weights that the publisher's card is about."""
    named = [published for published in published_files(model_name) if published.file_name == path.name]
    return path.is_file() and any(published.is_whole(path) for published in named)


def _card_of_keras(path: Path) -> Card | None:
    if not path.is_file():
        return None
    from convcraft.models.keras_applications import card_of_keras, usual_card_of_keras

    return card_of_keras(path) or usual_card_of_keras(path)


def _published_card(model_name: str) -> Card | None:
    return card_of_torchvision(model_name) if model_name in OWN_MODELS else card_of_timm(timm_name(model_name))


def _named_weights(model_name: str | None, weights: str) -> Pretrained:
    shipped = weights in shipped_names()
    path = SHIPPED / f"{weights}.safetensors" if shipped else Path(weights).expanduser()
    if not path.is_file():
        known = ", ".join(shipped_names()) or "none"
        expected = f"a file, or the name of weights that come with the package ({known})"
        raise UserError(f"weights {weights}, which are not there", expected, "Check --weights.")
    card = find_card(path, model_name)
    if card is not None and model_name is not None:
        _check_same_network(model_name, card, path)
    architecture = model_name or (card.architecture if card is not None else None)
    if architecture is None:
        fix = f"Name it with --model, or put a card beside the file ({path.stem}.json)."
        raise UserError(f"{path.name} without a card", "the network that the weights are of", fix)
    return Pretrained(path, f"{weights}, which comes with the package" if shipped else str(path), card, architecture)


def _check_same_network(model_name: str, card: Card, path: Path) -> None:
    if _bare(model_name) != _bare(card.architecture):
        raise UserError(
            f"{path.name} is of {card.architecture} ({card.origin or 'its card'}), and the network is {model_name}",
            "weights of the same network",
            f"Leave --model out, or set it to {card.architecture}; correct the card if it is wrong.",
        )


def _bare(name: str) -> str:
    """timm/resnet18.a1_in1k -> resnet18."""
    return name.removeprefix(TIMM_PREFIX).partition(".")[0]


def _published_weights(model_name: str, cache: Path, progress: Progress | None) -> Pretrained:
    """By the name of a network: from this machine, else downloaded."""
    files, card = published_files(model_name), _published_card(model_name)
    looked_at: list[str] = []
    for published in files:
        for path in places(published, cache):
            if path.is_file() and published.is_whole(path):
                return Pretrained(path, str(path), card, model_name)
            looked_at.append(f"{path} (damaged)" if path.is_file() else str(path))
    named_by_card, unusable = _named_by_card(model_name, own_folders(cache))
    if named_by_card is not None:
        return named_by_card
    looked_at += unusable
    for published in files:
        try:
            path = fetch(published, cache, progress)
            return Pretrained(path, f"{path}, downloaded", card, model_name)
        except UserError as error:
            looked_at.append(error.received)
    raise _nowhere(model_name, files, looked_at, cache)


def _named_by_card(model_name: str, folders: Sequence[Path]) -> tuple[Pretrained | None, list[str]]:
    """The one file in some folders whose card names a network; and the cards there that cannot be used."""
    wanted = model_name.removeprefix(TIMM_PREFIX)
    cards: dict[Path, Card] = {}
    unusable: list[str] = []
    for path in (path for folder in folders for path in sorted(folder.glob("*.safetensors"))):
        try:
            card = read_card(path)
        except UserError as error:  # most likely of another network, which nobody asked for
            unusable.append(f"{path} ({error.received})")
            continue
        if card is not None and card.architecture == wanted:
            cards[path] = card
    if len(cards) > 1:
        names = ", ".join(map(str, cards))
        raise UserError(f"several weights of {model_name}: {names}", "one of them", "Choose one with --weights.")
    found = (Pretrained(path, f"{path} (by its card)", card, model_name) for path, card in cards.items())
    return next(found, None), unusable


def _nowhere(model_name: str, files: Sequence[Published], looked_at: Sequence[str], cache: Path) -> UserError:
    if not files:
        known = ", ".join(shipped_names()) or "none"
        fix = f"Name a file with --weights, weights that come with the package ({known}), or another network."
        return UserError(f"{model_name}, of which nobody published weights", "a pretrained network", fix)
    first = files[0]
    return UserError(
        f"no weights of {model_name} on this machine, and none could be downloaded. Looked at: {'; '.join(looked_at)}",
        f"the file {first.file_name}",
        f"Fetch {first.urls[-1]} where there is a network and put it at {cache / first.file_name}, or name any file "
        "with --weights.",
    )
