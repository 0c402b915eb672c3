"""Recipes: functions that return a complete, frozen plan of what to collect, train and evaluate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from verbot.registry import Registry

if TYPE_CHECKING:
    from verbot.collection import CollectConfig
    from verbot.evaluation import EvaluationConfig
    from verbot.training import TrainConfig


@dataclass(frozen=True)
class Recipe:
    """Everything that a run depends on. `verbot demo` carries out all three parts, `verbot train` the first two."""

    collect: CollectConfig
    train: TrainConfig
    evaluate: EvaluationConfig


class RecipeFactory(Protocol):
    """Makes a `Recipe`.

    Args:
        dataset: the folder that is collected into and trained on.
        seed: of everything.
        workers: processes.
    """

    __name__: str
    __qualname__: str

    def __call__(self, dataset: str, seed: int, workers: int) -> Recipe: ...


recipes: Registry[RecipeFactory] = Registry("recipe", package="verbot.recipes.presets", group="verbot.recipes")
