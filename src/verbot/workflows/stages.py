"""The stages of a recipe: demonstrations, then trainings one after another."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot import training
from verbot.configuration import written_yaml
from verbot.data import open_dataset
from verbot.errors import ConfigError, MissingDependencyError, install_command
from verbot.evaluation.report.summary import versions
from verbot.folders import is_blank
from verbot.models.registries import Part
from verbot.recipes.config import Imitation, Recipe, Reinforcement
from verbot.recipes.overrides import registry_of
from verbot.rollout import collect
from verbot.rollout.collect import CollectConfig
from verbot.training import TrainConfig, TrainResult
from verbot.training.imitation.config import SHARED
from verbot.training.imitation.mixing import open_mapped, opened
from verbot.workflows.load_policy import policy_folder

if TYPE_CHECKING:
    from verbot.training.rl import ReinforceResult


def demonstrations(collection: CollectConfig, path: Path, progress: bool = True) -> Path:
    """The demonstrations of `collection` at `path`, collected as far as they are not there yet."""
    if is_blank(path) or len(open_dataset(path)) < collection.episodes:
        collect.run(collection, path, progress)
    return path


def all_demonstrations(recipe: Recipe, path: Path, progress: bool = True) -> list[Path]:
    """The recipe's demonstrations at `path`; those of co-training embodiments in folders beside it, named after their envs.

    None if the recipe learns from rewards alone.
    """
    if recipe.collection is None:
        return []
    _check_installed(recipe)
    others = [each for stage in recipe.stages if isinstance(stage, Imitation) for each in stage.collections]
    found = [demonstrations(each, path.with_name(f"{path.name}-{each.env}"), progress) for each in others]
    return [demonstrations(recipe.collection, path, progress), *found]


def _check_installed(recipe: Recipe) -> None:
    """Raise `MissingDependencyError` before minutes of collection if a part of a network cannot be built."""
    for stage in recipe.stages:
        network = (stage.imitation if isinstance(stage, Imitation) else stage.reinforcement).network
        for field in dataclasses.fields(network):
            part = getattr(network, field.name)
            registry = registry_of(field.name) if isinstance(part, Part) else None
            if registry is not None and (lacking := registry.missing(part.name)):
                raise MissingDependencyError(
                    f"recipe {recipe.name!r} has {field.name} {part.name!r}, "
                    f"which needs {' and '.join(lacking)}: {install_command(*lacking)}"
                )


def learn(
    recipe: Recipe, datasets: Sequence[str | Path], out: Path, *, resume: bool = True, progress: bool = True
) -> TrainResult | ReinforceResult:
    """Train stage by stage; each stage continues with the policy of the previous one. The result is that of the last stage.

    Args:
        datasets: the datasets for stages of imitation learning.
        out: the folder of the last stage; the others are in ``stage-1``, ``stage-2``, … below it.
    """
    result: TrainResult | ReinforceResult | None = None
    for number, stage in enumerate(recipe.stages, 1):
        folder = out if number == len(recipe.stages) else out / f"stage-{number}"
        previous = None if result is None else result.policy
        if isinstance(stage, Imitation):
            config = _with_datasets(stage.imitation, [str(path) for path in datasets])
            if (start := previous or config.init.init_from) is not None:
                init = dataclasses.replace(config.init, init_from=str(policy_folder(start)))
                config = dataclasses.replace(config, init=init)
            result = training.train_policy(config, folder, resume=resume, progress=progress, card=card(recipe))
        else:
            result = _reinforce(stage, previous, folder, resume, progress, card(recipe))
    assert result is not None
    return result


def _reinforce(
    stage: Reinforcement, previous: str | None, folder: Path, resume: bool, progress: bool, card: str
) -> ReinforceResult:
    from verbot.training.rl.ppo import train_ppo  # it needs Stable-Baselines3

    start = previous or stage.reinforcement.init.init_from
    init = dataclasses.replace(stage.reinforcement.init, init_from=None if start is None else str(policy_folder(start)))
    config = dataclasses.replace(stage.reinforcement, init=init)
    return train_ppo(config, folder, resume=resume, progress=progress, card=card)


def cotraining_records(
    first: str | Path, datasets: Sequence[str | Path], features: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """Plain `CotrainingEmbodiment` records, one for each robot of `datasets`, with the network of the robot of `first`.

    Args:
        features: as in `DataConfig`, for all datasets.
    """
    named = None if features is None else {target: list(names) for target, names in features.items()}
    cameras = open_mapped(first, features).camera_names
    records: dict[str, dict[str, Any]] = {}
    for path in datasets:
        dataset = open_mapped(path, features)
        shared = [pattern for pattern in SHARED if pattern != "vision.*" or (cameras and dataset.camera_names)]
        robot = dataset.spec.name
        record = records.setdefault(robot, {"robot": robot, "datasets": [], "features": named, "shared": shared})
        record["datasets"].append(str(path))
    return list(records.values())


def _with_datasets(config: TrainConfig, datasets: Sequence[str]) -> TrainConfig:
    """`config` with the datasets, each given to the co-training embodiment of whose robot it is, else to the first robot.

    Datasets stay with embodiments that have some already, if the first robot would be left without.

    Raises `ConfigError` if one of them gets none.
    """
    if not config.cotraining:
        return dataclasses.replace(config, data=dataclasses.replace(config.data, datasets=tuple(datasets)))
    robots = {path: opened(config.data, path).spec.name for path in datasets}
    cotraining = tuple(
        dataclasses.replace(each, datasets=tuple(path for path in datasets if robots[path] == each.robot) or each.datasets)
        for each in config.cotraining
    )
    first = tuple(path for path in datasets if robots[path] not in {each.robot for each in cotraining})
    if not first and all(each.datasets for each in config.cotraining):
        first, cotraining = tuple(datasets), config.cotraining
    known = ", ".join(sorted(set(robots.values())))
    if lacking := [each.robot for each in cotraining if not each.datasets] + ["the first robot"] * (not first):
        raise ConfigError(
            f"{', '.join(lacking)} would have nothing to train on: the datasets are of {known}; name one or more of each robot"
        )
    return dataclasses.replace(config, data=dataclasses.replace(config.data, datasets=first), cotraining=cotraining)


def card(recipe: Recipe) -> str:
    """Markdown: the recipe, the version, and the whole configuration, so that the card alone repeats the run."""
    return (
        f"## Training\n\nRecipe `{recipe.name}`: {recipe.about}. verbot {versions().get('verbot', '')}{_commit()}.\n\n"
        f"<details><summary>Configuration</summary>\n\n```yaml\n{written_yaml(recipe)}```\n\n</details>\n"
    )


def _commit() -> str:
    """Of the checkout that this package runs from; nothing for an installed one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return ""
    found = subprocess.run(
        ["git", "-C", str(root), "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return f", commit {found.stdout.strip()}" if found.returncode == 0 else ""
