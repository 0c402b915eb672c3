"""Recipes of reinforcement: what is tried, where, and how long. One file each, or several of a kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import load_yaml, replace
from verbot.registry import Registry
from verbot.training.rl.config import ReinforceConfig

if TYPE_CHECKING:
    from verbot.training.rl.ppo import ReinforceResult


@dataclass(frozen=True)
class TrialConfig:
    """What a recipe of reinforcement returns."""

    name: str
    about: str
    reinforcement: ReinforceConfig


trials: Registry[Callable[[], TrialConfig]] = Registry("recipe of reinforcement", package="verbot.recipes.rl")


def reinforce(
    recipe: str | Path | TrialConfig = "starter-ppo",
    *,
    out: str | Path,
    seed: int | None = None,
    resume: bool = True,
    progress: bool = True,
    **settings: Any,
) -> ReinforceResult:
    """Train a policy by trying; leaves ``policy/``, ``config.yaml``, ``log.jsonl`` and ``result.json`` in `out`.

    Args:
        recipe: a name (`verbot list reinforcement`), a YAML file of a `TrialConfig`, or the configuration itself.
        settings: fields of `verbot.training.rl.ReinforceConfig`, e.g. ``steps=100_000``, ``policy="run/policy"``.

    Raises:
        ConfigError: a setting does not exist or does not fit, or `out` holds another run.
        MissingDependencyError: Stable-Baselines3 is not installed.
    """
    from verbot.training.rl.ppo import reinforce as run
    from verbot.workflows.stages import card

    if isinstance(recipe, TrialConfig):
        trial = recipe
    elif Path(recipe).suffix in (".yaml", ".yml"):
        trial = load_yaml(TrialConfig, recipe)
    else:
        trial = trials.get(str(recipe))()
    seeds = {} if seed is None else {"seed": seed}
    trial = replace(trial, {"reinforcement": {**seeds, **settings}})
    return run(trial.reinforcement, out, resume=resume, progress=progress, card=card(trial))
