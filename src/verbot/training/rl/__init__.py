"""Reinforcement learning: PPO on the same policies that imitation learning trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verbot.training.rl.config import ReinforceConfig

if TYPE_CHECKING:
    from verbot.training.rl.ppo import ReinforceResult, reinforce

__all__ = ["ReinforceConfig", "ReinforceResult", "reinforce"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from verbot.training.rl import ppo  # it needs Stable-Baselines3

    return getattr(ppo, name)
