"""Recipes by name: a recipe is a module of this package with a function `config() -> RunConfig`."""

from __future__ import annotations

import difflib
import importlib
import pkgutil

from convcraft import recipes
from convcraft.config import RunConfig
from convcraft.errors import UserError

_NOT_RECIPES = {"catalogue"}


def recipe_names() -> list[str]:
    """Names as typed on the command line: mnist_fast.py is `mnist-fast`."""
    found = (module.name.replace("_", "-") for module in pkgutil.iter_modules(recipes.__path__))
    return sorted(name for name in found if name not in _NOT_RECIPES)


def load_recipe(name: str) -> RunConfig:
    """The complete configuration of a recipe.

    Raises:
        UserError: no recipe of that name; the nearest is given.
    """
    names = recipe_names()
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        fix = f"Did you mean {near[0]}?" if near else "Choose one of these, or leave --recipe out."
        raise UserError(f"recipe {name!r}", "one of " + ", ".join(names), fix)
    module = importlib.import_module(f"convcraft.recipes.{name.replace('-', '_')}")
    config: RunConfig = module.config()
    return config


def describe_recipe(name: str) -> str:
    """The first line of a recipe's header."""
    module = importlib.import_module(f"convcraft.recipes.{name.replace('-', '_')}")
    return (module.__doc__ or "").strip().splitlines()[0]
