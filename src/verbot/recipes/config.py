"""A recipe: what is demonstrated, what is learned from it in which stages, and how the policy is measured."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verbot.configuration import Record, load_yaml, parse_value, renamed, warn_renamed
from verbot.errors import ConfigError
from verbot.evaluation import EvaluationConfig
from verbot.parallel.workers import cores
from verbot.recipes import recipes
from verbot.recipes.acting import ACTING
from verbot.recipes.overrides import ShortPathRoot, apply, locate
from verbot.rollout.collect import CollectConfig
from verbot.training import TrainConfig
from verbot.training.rl.config import ReinforceConfig

DEFAULT_DATASET = ("dataset",)  # what a recipe trains on: the dataset that its own collection makes


@dataclass(frozen=True)
class Imitation:
    """A stage that learns from demonstrations.

    Args:
        imitation: the training; `data.datasets` is overwritten with the collected dataset's path.
        collections: the demonstrations of the co-training embodiments, in their order.
    """

    imitation: TrainConfig
    collections: tuple[CollectConfig, ...] = ()


@dataclass(frozen=True)
class Reinforcement:
    """A stage that learns from rewards. After another stage it starts from that stage's policy."""

    reinforcement: ReinforceConfig


TrainingStage = Imitation | Reinforcement


def _from_older_shape(record: Record) -> Record:
    """Reads the fields of a version with a single stage: `training`, with `beside`, or `reinforcement`."""
    if "training" in record:
        warn_renamed("the field of Recipe", "training", "stages.0.imitation")
        kept = {name: value for name, value in record.items() if name not in ("training", "beside")}
        return {**kept, "stages": [{"imitation": record["training"], "collections": record.get("beside", [])}]}
    if "reinforcement" in record:
        warn_renamed("the field of Recipe", "reinforcement", "stages.0.reinforcement")
        kept = {name: value for name, value in record.items() if name != "reinforcement"}
        return {"collection": None, **kept, "stages": [{"reinforcement": record["reinforcement"]}]}
    return record


@renamed(_from_older_shape)
@dataclass(frozen=True)
class Recipe:
    """A complete run: the value that a recipe's function returns.

    Args:
        name: name of the recipe.
        about: one line: what it is for and what it costs.
        collection: the demonstrations; None if no stage needs any.
        stages: the trainings, one after another; each starts from the policy of the previous one.
        evaluation: the measurement.
    """

    name: str
    about: str
    collection: CollectConfig | None
    stages: tuple[TrainingStage, ...]
    evaluation: EvaluationConfig = dataclasses.field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if not self.stages:
            raise ConfigError(f"recipe {self.name!r} has no stages: give an imitation-learning or a reinforcement-learning stage")
        if self.collection is None and any(isinstance(stage, Imitation) for stage in self.stages):
            raise ConfigError(f"recipe {self.name!r} imitates demonstrations, and has no collection")
        for stage in self.stages[1:]:
            start = (stage.imitation if isinstance(stage, Imitation) else stage.reinforcement).init.init_from
            if start is not None:
                raise ConfigError(f"recipe {self.name!r}: a stage after the first starts from the stage before, not from {start}")

    @property
    def training(self) -> TrainConfig:
        """The configuration of the first stage of imitation learning. Raises `ConfigError` if there is none."""
        for stage in self.stages:
            if isinstance(stage, Imitation):
                return stage.imitation
        raise ConfigError(f"recipe {self.name!r} learns from rewards alone: it has no imitation")

    @property
    def reinforcement(self) -> ReinforceConfig:
        """The configuration of the first stage of reinforcement learning. Raises `ConfigError` if there is none."""
        for stage in self.stages:
            if isinstance(stage, Reinforcement):
                return stage.reinforcement
        raise ConfigError(f"recipe {self.name!r} learns from demonstrations alone: it has no reinforcement")

    @property
    def short_path_roots(self) -> tuple[ShortPathRoot, ...]:
        """The records whose fields are settings without a prefix: the stages, their networks, and how the policy acts."""
        found = [ShortPathRoot(names=frozenset({"collection", "stages", "evaluation"}))]
        for number, stage in enumerate(self.stages):
            path = ("stages", str(number), *(("imitation",) if isinstance(stage, Imitation) else ("reinforcement",)))
            found += [ShortPathRoot(path[:2]), ShortPathRoot(path), ShortPathRoot((*path, "network"))]
            if number == 0:  # a later stage starts from the stage before
                found.append(ShortPathRoot((*path, "init"), frozenset({"init_from"})))
        return (*found, ShortPathRoot(("evaluation",), frozenset(ACTING)))

    def with_training(self, training: TrainConfig) -> Recipe:
        """The same recipe with another configuration of its first stage of imitation learning."""
        first = self.training
        stages = (
            dataclasses.replace(stage, imitation=training) if isinstance(stage, Imitation) and stage.imitation is first else stage
            for stage in self.stages
        )
        return dataclasses.replace(self, stages=tuple(stages))


def resolve(recipe: str | Path | Recipe, settings: Mapping[str, Any] | None = None, seed: int | None = None) -> Recipe:
    """A complete recipe.

    Args:
        recipe: a name, a name with settings (``"starter+vision=vit+learning_rate=1e-3"``), a YAML file, or a recipe.
        settings: further settings (`verbot.recipes.overrides`).
        seed: the seed of the whole run; None uses that of the recipe.

    Raises `UnknownNameError` with the nearest name, `ConfigError` for a setting or a file that does not fit.

    Example:
        >>> resolve("starter+execute=3").evaluation.execute
        3
    """
    own: dict[str, Any] = {}
    if isinstance(recipe, Recipe):
        base = recipe
    elif Path(recipe).suffix in (".yaml", ".yml"):
        base = load_yaml(Recipe, recipe)
    else:
        name, own = parse_recipe_spec(str(recipe))
        base = recipes.get(name)()
    return change(change(base, own, seed), settings or {})


def parse_recipe_spec(spec: str) -> tuple[str, dict[str, Any]]:
    """(recipe, settings) of a recipe spec: a recipe's name, then ``+field=value`` for each setting.

    Raises `ConfigError` if a setting is not of that form, or is given twice.

    Example:
        >>> parse_recipe_spec("starter+vision=film_conv+vision.channels=24+learning_rate=1e-3")
        ('starter', {'vision': 'film_conv', 'vision.channels': 24, 'learning_rate': 0.001})
    """
    recipe, *changes = [spec] if Path(spec).is_file() else re.split(r"\+(?=[A-Za-z_])", spec)
    settings: dict[str, Any] = {}
    for changed in changes:
        name, equals, value = changed.partition("=")
        if not equals:
            raise ConfigError(f"{changed!r} in {spec!r} is not of the form field=value; expected RECIPE+field=value+…")
        if name in settings:
            raise ConfigError(f"{spec!r} sets {name} twice")
        settings[name] = parse_value(value)
    return recipe, settings


def change(recipe: Recipe, settings: Mapping[str, Any], seed: int | None = None) -> Recipe:
    """`recipe` with other settings. A budget (steps, samples or minutes) replaces another.

    Raises `ConfigError` as `verbot.recipes.overrides.override` does.
    """
    located = locate(recipe, settings, recipe.short_path_roots)
    if seed is not None:
        roots = [
            (*root.path, "seed") for root in recipe.short_path_roots if root.path[-1:] in (("imitation",), ("reinforcement",))
        ]
        roots += [("evaluation", "seed"), *([("collection", "seed")] if recipe.collection else [])]
        located = dict.fromkeys(roots, seed) | located
    return apply(recipe, located) if located else recipe


def format_settings(settings: Mapping[str, Any]) -> str:
    """Settings on one line.

    Example:
        >>> format_settings({"head": "flow", "vision.channels": 24})
        'head=flow, vision.channels=24'
    """
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def process_count(batch_size: int) -> int:
    """The number of training processes: one per core, if they can share the batch evenly."""
    return max(n for n in range(1, min(cores(), 8) + 1) if batch_size % n == 0)
