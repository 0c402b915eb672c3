"""`verbot corrector`: trains the corrector of a policy by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verbot.configuration import nested, replace
from verbot.errors import ConfigError, PolicyError
from verbot.policy.runtime import is_exported
from verbot.policy.storage import policy_folder

if TYPE_CHECKING:
    from verbot.training.imitation.corrector import CorrectorResult


def corrector(
    policy: str,
    data: Sequence[Path],
    out: Path,
    budget: Mapping[str, Any],
    settings: Mapping[str, Any],
    seed: int = 0,
    progress: bool = True,
) -> CorrectorResult:
    """Train a corrector for the policy called `policy` on these datasets (see `verbot.training.imitation.corrector`).

    Args:
        budget: one of ``steps``, ``samples`` and ``minutes``; empty for the default.
        settings: other fields of `CorrectorTraining`, e.g. ``{"network.hidden": 128}``.

    Raises `PolicyError` for a server or an exported policy, `ConfigError` for a setting that there is not.
    """
    if policy in ("expert", "random") or policy.startswith(("ws://", "wss://")):
        raise PolicyError(f"{policy} is no policy on this machine; give the folder of one")
    if is_exported(policy_folder(policy)):
        raise ConfigError(f"{policy} is an exported policy, which tells no latents; give the one that it was made of")
    if not data:
        raise ConfigError("a corrector is learned from demonstrations: give their folders as --data")
    if out.resolve() == policy_folder(policy).resolve():
        raise ConfigError(f"{out} is the policy itself; choose another folder for the run")
    from verbot.training.distributed.process_group import torch_threads
    from verbot.training.imitation.corrector import MINUTES, CorrectorTraining, train_corrector
    from verbot.training.imitation.records import BudgetConfig, DataConfig

    length = BudgetConfig(**budget) if budget else BudgetConfig(minutes=MINUTES)
    base = CorrectorTraining(policy, DataConfig(tuple(map(str, data)), batch_size=128), length, seed=seed)
    config = replace(base, nested(settings)) if settings else base
    with torch_threads(1):
        return train_corrector(config, out, progress)
