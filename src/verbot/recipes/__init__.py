"""Recipes: functions that return a complete, frozen configuration of a run (`verbot.recipes.config.RunConfig`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verbot.registry import Registry

if TYPE_CHECKING:
    from verbot.recipes.config import RunConfig

recipes: Registry[Callable[[], RunConfig]] = Registry("recipe", package="verbot.recipes.imitation", group="verbot.recipes")
