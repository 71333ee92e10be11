"""train, doctor and finetune settle a network's input and arguments alike, whatever card its weights have."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import save_file

from convcraft.config import ModelConfig, PreprocessConfig, RunConfig
from convcraft.errors import UserError
from convcraft.models.build import build_model
from convcraft.models.pretrained import resolve_pretrained
from convcraft.training.run_folder import read_run
from convcraft.workflows.compress_settings import choose_compression
from convcraft.workflows.model_card import model_card
from convcraft.workflows.pretrained_start import settle_start
from convcraft.workflows.train import train
from convcraft.workflows.weights_card import card_of, with_card

IMAGENET_MEAN = (0.485, 0.456, 0.406)


@pytest.fixture(scope="module")
def cardless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a ResNet-18 with no card beside them."""
    path = tmp_path_factory.mktemp("weights") / "mine.safetensors"
    model = build_model(ModelConfig(name="resnet18"), num_classes=3, in_channels=3, image_size=(224, 224))
    save_file(model.state_dict(), path)
    return path


def started(config: RunConfig) -> RunConfig:
    return settle_start(config, Console(quiet=True)).config


def test_weights_of_the_package_and_their_card() -> None:
    architecture = resolve_pretrained(None, "mnist-resnet20").architecture
    config = RunConfig(model=ModelConfig(name=architecture, weights="mnist-resnet20"))
    settled = with_card(config)
    assert settled == started(config)
    assert Path(settled.model.weights or "").is_file()
    assert settled.preprocess.channels == 1
    card = card_of(settled)
    assert card is not None
    assert not card.stands_in
    assert settled.preprocess.mean == card.mean


def test_a_file_without_a_card_gets_the_usual_one_of_its_network(cardless: Path) -> None:
    config = RunConfig(model=ModelConfig(name="resnet18", weights=str(cardless)))
    settled = with_card(config)
    assert settled == started(config)
    assert settled.preprocess.mean == IMAGENET_MEAN
    card = card_of(settled)
    assert card is not None
    assert card.stands_in  # so that preflight warns


def test_what_is_set_stays(cardless: Path) -> None:
    preprocess = PreprocessConfig(image_size=(64, 64), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    config = RunConfig(model=ModelConfig(name="resnet18", weights=str(cardless)), preprocess=preprocess)
    settled = with_card(config)
    assert settled == started(config)
    assert settled.preprocess.image_size == (64, 64)
    assert settled.preprocess.mean == (0.5, 0.5, 0.5)


def test_without_weights_nothing_changes() -> None:
    assert with_card(RunConfig()) == RunConfig()
    assert card_of(RunConfig()) is None


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(UserError, match="the network is lenet5"):
        with_card(RunConfig(model=ModelConfig(name="lenet5", weights="mnist-resnet20")))


def test_a_smaller_run_keeps_the_licence_of_the_weights_that_it_goes_back_to(tmp_path: Path) -> None:
    run = train(
        RunConfig().changed(data={"source": "digits"}, model={"name": "lenet5"}, training={"epochs": 0}),
        tmp_path / "run",
        console=Console(quiet=True),
    ).run
    began = RunConfig.load(run / "config.yaml").changed(model={"weights": "published.safetensors"})
    began.save(run / "config.yaml")
    pruned = choose_compression(run, prune=0.5)
    assert pruned.model.weights is None  # nothing is loaded from there again
    assert pruned.first_weights == "published.safetensors"
    pruned.save(run / "config.yaml")
    assert choose_compression(run, sparsity=0.5).first_weights == "published.safetensors"
    assert choose_compression(run, into="seed_cnn").first_weights is None
    assert "Weights began as" in model_card(read_run(run), None)
    RunConfig().save(run / "config.yaml")
    assert "trained from random numbers" in model_card(read_run(run), None)
