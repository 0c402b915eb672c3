"""Recipes: functions that return a complete, frozen configuration of a run (`verbot.recipes.config.RunConfig`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verbot.registry import Registry

recipes: Registry[Callable[[], Any]] = Registry(
    "recipe", package=("verbot.recipes.imitation", "verbot.recipes.models"), group="verbot.recipes"
)
