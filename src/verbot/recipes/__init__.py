"""Recipes: functions that return a complete run (`verbot.recipes.config.Recipe`)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from verbot.registry import Registry

recipes: Registry[Callable[[], Any]] = Registry(
    "recipe",
    package=("verbot.recipes.imitation", "verbot.recipes.models", "verbot.recipes.rl"),
    group="verbot.recipes",
    needs=("torch",),
)
LISTS = Path(__file__).parent / "comparisons"


def comparison_lists() -> tuple[str, ...]:
    """Names of the lists of variants that ship with verbot.

    Example:
        >>> "all" in comparison_lists()
        True
    """
    return tuple(sorted(path.stem for path in LISTS.glob("*.yaml")))
