"""The stages of a run: demonstrations, learning."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from verbot import training
from verbot.configuration import to_plain
from verbot.data import open_dataset
from verbot.errors import ConfigError
from verbot.evaluation.report.summary import versions
from verbot.recipes.config import RunConfig
from verbot.recipes.rl import TrialConfig
from verbot.rollout import collect
from verbot.training import TrainConfig, TrainResult
from verbot.workflows.load_policy import policy_folder


def demonstrations(run: RunConfig, path: Path, progress: bool = True) -> Path:
    """The recipe's demonstrations at `path`, gathered as far as they are not there yet."""
    if not (path.exists() and len(open_dataset(path)) >= run.collection.episodes):
        collect.run(run.collection, path, progress)
    return path


def all_demonstrations(run: RunConfig, path: Path, progress: bool = True) -> list[Path]:
    """Those at `path`, and beside it, in a folder with the env's name after it, those of each companion."""
    beside = [
        demonstrations(dataclasses.replace(run, collection=each), path.with_name(f"{path.name}-{each.env}"), progress)
        for each in run.beside
    ]
    return [demonstrations(run, path, progress), *beside]


def learn(
    run: RunConfig, datasets: Sequence[str | Path], out: Path, *, resume: bool = True, progress: bool = True
) -> TrainResult:
    """Train what the recipe says on `datasets`; the policy's card says how it came about."""
    config = _told(run.training, [str(path) for path in datasets])
    if config.start is not None:
        config = dataclasses.replace(config, start=str(policy_folder(config.start)))
    return training.train(config, out, resume=resume, progress=progress, card=card(run))


def _told(config: TrainConfig, datasets: Sequence[str]) -> TrainConfig:
    """`config` with the datasets, each given to the companion of whose robot it is, else to the first robot.

    Raises `ConfigError` where one of them gets none.
    """
    if not config.companions:
        return dataclasses.replace(config, datasets=tuple(datasets))
    robots = {path: open_dataset(path).spec.name for path in datasets}
    companions = tuple(
        dataclasses.replace(each, datasets=tuple(path for path in datasets if robots[path] == each.robot) or each.datasets)
        for each in config.companions
    )
    first = tuple(path for path in datasets if robots[path] not in {each.robot for each in companions})
    known = ", ".join(sorted(set(robots.values())))
    if lacking := [each.robot for each in companions if not each.datasets] + ["the first robot"] * (not first):
        raise ConfigError(
            f"{', '.join(lacking)} would have nothing to train on: the datasets are of {known}; name one or more of each robot"
        )
    return dataclasses.replace(config, datasets=first, companions=companions)


def card(run: RunConfig | TrialConfig) -> str:
    """Markdown: the recipe, the version, and the whole configuration, so that the card alone repeats the run."""
    settings = yaml.safe_dump(to_plain(run), sort_keys=False, width=120, allow_unicode=True)
    return (
        f"## Training\n\nRecipe `{run.name}`: {run.about}. verbot {versions().get('verbot', '')}{_commit()}.\n\n"
        f"<details><summary>Configuration</summary>\n\n```yaml\n{settings}```\n\n</details>\n"
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
