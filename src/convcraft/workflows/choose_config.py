"""Which configuration a command means: recipe or file first, then what was said on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from convcraft.config import RunConfig
from convcraft.errors import UserError
from convcraft.recipes.catalogue import load_recipe, recipe_names

DEFAULT_RECIPE = "small-images"


def choose_config(
    data: str | None,
    recipe: str | None,
    config_file: Path | None,
    *,
    data_settings: dict[str, Any],
    preprocess_settings: dict[str, Any],
    model_settings: dict[str, Any],
    optim_settings: dict[str, Any],
    training_settings: dict[str, Any],
    assignments: Sequence[str] = (),
) -> RunConfig:
    """The full configuration of a run.

    With nothing said at all the default configuration comes back, which --resume reads as "the run's own".
    A named set takes the recipe of its name; other data the default recipe.

    Args:
        *_settings: fields of the sections; None leaves a field as it is.
        assignments: "section.field=value" with a YAML value, applied last.

    Raises:
        UserError: an unknown recipe or setting, or a value out of range.
    """
    if recipe is not None and config_file is not None:
        raise UserError("--recipe and --config", "one of the two", "Leave one out.")
    if config_file is not None:
        config = RunConfig.load(config_file)
    elif recipe is not None:
        config = load_recipe(recipe)
    elif data is not None:
        config = load_recipe(_recipe_of(data))
    else:
        config = RunConfig()
    model_name = model_settings.get("name")
    if model_name is not None and model_name != config.model.name:
        model_settings = {"args": {}, **model_settings}  # the recipe's arguments belong to the recipe's network
    config = config.changed(
        training=training_settings,
        data={"source": data, **data_settings},
        preprocess=preprocess_settings,
        model=model_settings,
        optim=optim_settings,
    )
    return assign(config, assignments)


def _recipe_of(data: str) -> str:
    """The recipe that bears the name of the data set it is for, or the default one."""
    name = data.casefold()
    return name if name in recipe_names() and load_recipe(name).data.source == name else DEFAULT_RECIPE


def assign(config: RunConfig, assignments: Sequence[str]) -> RunConfig:
    """Apply "section.field=value" texts."""
    values = config.to_dict()
    for text in assignments:
        name, equals, value = text.partition("=")
        section, dot, key = name.strip().partition(".")
        if not equals or not dot or not isinstance(values.get(section), dict):
            sections = ", ".join(key for key, item in values.items() if isinstance(item, dict))
            fix = f"Write SECTION.NAME=VALUE with a section of: {sections}."
            raise UserError(f"--set {text}", "a setting such as optim.name=sgd", fix)
        try:
            values[section][key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise UserError(f"--set {text}: {error}", "a value in YAML", "Quote it.") from error
    return RunConfig.from_dict(values)


def new_run_folder(config: RunConfig) -> Path:
    """runs/NAME, NAME-2, NAME-3 ...: the first that does not exist."""
    return first_free(Path("runs", Path(config.data.source).stem or "run"))


def first_free(folder: Path) -> Path:
    """The folder, or with -2, -3 ... behind its name: the first that does not exist."""
    free, number = folder, 1
    while free.exists():
        number += 1
        free = folder.with_name(f"{folder.name}-{number}")
    return free
