"""Reinforcement learning: PPO on the same policies that imitation learning trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from verbot.configuration import former_names
from verbot.training.rl.config import ReinforceConfig

if TYPE_CHECKING:
    from verbot.training.rl.ppo import ReinforceResult, train_ppo

__all__ = ["ReinforceConfig", "ReinforceResult", "train_ppo"]


_former = former_names(__name__, reinforce="train_ppo")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        return _former(name)
    from verbot.training.rl import ppo  # it needs Stable-Baselines3

    return getattr(ppo, name)
