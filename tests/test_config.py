"""Settings are checked when built, survive YAML, and name the nearest valid key."""

from __future__ import annotations

from pathlib import Path

import pytest

from convcraft.config import AugmentConfig, DataConfig, ModelConfig, OptimConfig, RunConfig, TrainingConfig
from convcraft.errors import UserError
from convcraft.recipes.catalogue import load_recipe, recipe_names
from convcraft.workflows.choose_config import assign, choose_config

NOTHING = {
    "data_settings": {},
    "preprocess_settings": {},
    "model_settings": {},
    "optim_settings": {},
    "training_settings": {},
}


def test_saved_configuration_comes_back_equal(tmp_path: Path) -> None:
    config = RunConfig(
        recipe="x",
        data=DataConfig(source="größe/照片", labels_per_class=3),
        augment=AugmentConfig(scale_range=(0.5, 2.0)),
        model=ModelConfig(name="resnet18", args={"pad_type": "same"}),
        optim=OptimConfig(betas=(0.8, 0.9)),
        training=TrainingConfig(gradient_clip_norm=1.5),
    )
    config.save(tmp_path / "config.yaml")
    assert RunConfig.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_is_complete_and_survives_yaml(name: str, tmp_path: Path) -> None:
    config = load_recipe(name)
    assert config.recipe == name
    config.save(tmp_path / "config.yaml")
    assert RunConfig.load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optim": {"learnin_rate": 1.0}}, "Did you mean optim.learning_rate"),
        ({"optim": {"learning_rate": "fast"}}, "type float"),
        ({"training": {"batch_size": 0}}, "at least 1"),
        ({"training": {"epochs": True}}, "type int"),
        ({"optim": {"name": "adamax"}}, "one of sgd, adam, adamw, rmsprop"),
        ({"training": 3}, "a mapping"),
        ({"augment": {"scale_range": [2.0, 1.0]}}, "rising"),
        ({"preprocess": {"mean": [0.5]}}, "both given"),
        ({"data": {"final": True}}, "fixed schedule"),
        ([], "a mapping"),
    ],
)
def test_bad_settings_say_what_is_expected(values: object, says: str) -> None:
    with pytest.raises(UserError, match=says):
        RunConfig.from_dict(values)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="readable"):
        RunConfig.load(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match="YAML"):
        RunConfig.load(tmp_path / "bad.yaml")


def test_command_line_wins_over_recipe_and_recipe_over_default() -> None:
    config = choose_config("digits", None, None, **{**NOTHING, "training_settings": {"epochs": 2, "seed": None}})
    assert config.recipe == "digits"
    assert config.training.epochs == 2
    assert config.training.seed == load_recipe("digits").training.seed
    other = choose_config("photos", None, None, **NOTHING)
    assert other.recipe == "small-images"
    assert other.data.source == "photos"


def test_another_model_drops_the_recipes_model_arguments() -> None:
    config = choose_config("digits", None, None, **{**NOTHING, "model_settings": {"name": "lenet5"}})
    assert config.model.args == {}


def test_data_decides_about_the_recipe() -> None:
    assert choose_config("MNIST", None, None, **NOTHING).recipe == "mnist"
    assert choose_config("mnist-fast", None, None, **NOTHING).recipe == "small-images"  # a recipe, but no data set


def test_assignments_set_any_field() -> None:
    assert assign(RunConfig(), ["optim.learning_rate=1e-3"]).optim.learning_rate == 1e-3  # text to YAML 1.1
    config = assign(RunConfig(), ["optim.name=sgd", "augment.scale_range=[0.9, 1.1]", "training.ema_decay=null"])
    assert config.optim.name == "sgd"
    assert config.augment.scale_range == (0.9, 1.1)
    for wrong in ("optim.name", "name=sgd", "nowhere.name=sgd"):
        with pytest.raises(UserError):
            assign(RunConfig(), [wrong])


def test_unknown_recipe_names_the_nearest() -> None:
    with pytest.raises(UserError, match="Did you mean digits"):
        load_recipe("digit")
