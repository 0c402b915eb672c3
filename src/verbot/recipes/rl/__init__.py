"""Recipes of reinforcement: what is tried, where, and how long. One file each, or several of a kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from verbot.registry import Registry
from verbot.training.rl.config import ReinforceConfig


@dataclass(frozen=True)
class TrialConfig:
    """What a recipe of reinforcement returns."""

    name: str
    about: str
    reinforcement: ReinforceConfig


trials: Registry[Callable[[], TrialConfig]] = Registry("recipe of reinforcement", package="verbot.recipes.rl")
