"""Recipes: functions that return a complete run (`verbot.recipes.config.Recipe`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from verbot.registry import Registry

recipes: Registry[Callable[[], Any]] = Registry(
    "recipe",
    package=("verbot.recipes.imitation", "verbot.recipes.models", "verbot.recipes.rl"),
    group="verbot.recipes",
)
