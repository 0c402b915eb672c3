"""A whole run as one frozen record: what is demonstrated, what is trained on it, how it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.configuration import load_yaml, replace
from verbot.evaluation import EvaluationConfig
from verbot.parallel.workers import cores
from verbot.recipes import recipes
from verbot.rollout.collect import CollectConfig
from verbot.training import TrainConfig

HERE = ("dataset",)  # what a recipe trains on: the dataset that its own collection makes
BUDGETS = ("steps", "samples", "minutes")


@dataclass(frozen=True)
class RunConfig:
    """What a recipe returns.

    Args:
        name: of the recipe.
        about: one sentence: what it is for and what it costs.
        collection: the demonstrations.
        training: its `datasets` are replaced by the place where the demonstrations are.
        evaluation: the measurement.
        beside: the demonstrations of the training's companions.
    """

    name: str
    about: str
    collection: CollectConfig
    training: TrainConfig
    evaluation: EvaluationConfig
    beside: tuple[CollectConfig, ...] = ()


def resolve(recipe: str | Path | RunConfig) -> RunConfig:
    """A recipe by name, a YAML file that holds one, or the configuration itself.

    Raises `UnknownNameError` with the nearest name, `ConfigError` for a file that does not fit.

    Example:
        >>> resolve("starter").collection.env
        'tabletop-starter'
    """
    if isinstance(recipe, RunConfig):
        return recipe
    if Path(recipe).suffix in (".yaml", ".yml"):
        return load_yaml(RunConfig, recipe)
    run: RunConfig = recipes.get(str(recipe))()
    return run


def change(run: RunConfig, training: Mapping[str, Any], seed: int | None = None) -> RunConfig:
    """`run` with other training settings; one budget (steps, samples or minutes) takes the place of another.

    Raises `ConfigError` as `verbot.configuration.build` does.
    """
    changes: dict[str, Any] = dict(training)
    if any(changes.get(name) is not None for name in BUDGETS):
        changes = dict.fromkeys(BUDGETS) | changes
    seeds = {} if seed is None else {"seed": seed}
    return replace(run, {"training": {**seeds, **changes}, "collection": seeds, "evaluation": seeds})


def members(batch_size: int) -> int:
    """How many processes train together: one per core, as long as they can share the batch evenly."""
    return max(n for n in range(1, min(cores(), 8) + 1) if batch_size % n == 0)
