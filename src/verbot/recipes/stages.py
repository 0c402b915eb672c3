"""The stages of a run: demonstrations, learning."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from verbot import collection, training
from verbot.configuration import to_plain
from verbot.data import open_dataset
from verbot.evaluation.summary import versions
from verbot.recipes.config import RunConfig
from verbot.recipes.players import policy_folder
from verbot.recipes.trials import TrialConfig
from verbot.training import TrainResult


def demonstrations(run: RunConfig, path: Path, progress: bool = True) -> Path:
    """The recipe's demonstrations at `path`, gathered as far as they are not there yet."""
    if not (path.exists() and len(open_dataset(path)) >= run.collection.episodes):
        collection.run(run.collection, path, progress)
    return path


def learn(
    run: RunConfig, datasets: Sequence[str | Path], out: Path, *, resume: bool = True, progress: bool = True
) -> TrainResult:
    """Train what the recipe says on `datasets`; the policy's card says how it came about."""
    config = dataclasses.replace(run.training, datasets=tuple(str(path) for path in datasets))
    if config.start is not None:
        config = dataclasses.replace(config, start=str(policy_folder(config.start)))
    return training.train(config, out, resume=resume, progress=progress, card=card(run))


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
