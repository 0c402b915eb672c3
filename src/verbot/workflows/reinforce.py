"""`verbot reinforce`: a policy trained by reinforcement learning."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import load_yaml, replace
from verbot.recipes.rl import TrialConfig, trials
from verbot.workflows.stages import card

if TYPE_CHECKING:
    from verbot.training.rl.ppo import ReinforceResult


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

    if isinstance(recipe, TrialConfig):
        trial = recipe
    elif Path(recipe).suffix in (".yaml", ".yml"):
        trial = load_yaml(TrialConfig, recipe)
    else:
        trial = trials.get(str(recipe))()
    seeds = {} if seed is None else {"seed": seed}
    trial = replace(trial, {"reinforcement": {**seeds, **settings}})
    return run(trial.reinforcement, out, resume=resume, progress=progress, card=card(trial))
