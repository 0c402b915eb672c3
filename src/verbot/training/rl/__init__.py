"""Reinforcement: a policy learns by trying, with the networks that it would be cloned with."""

from __future__ import annotations

from verbot.training.rl.config import ReinforceConfig
from verbot.training.rl.ppo import ReinforceResult, reinforce

__all__ = ["ReinforceConfig", "ReinforceResult", "reinforce"]
