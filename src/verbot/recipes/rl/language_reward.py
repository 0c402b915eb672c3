"""Navigation without the env's own reward: by a language reward model, and by demonstrations."""

from __future__ import annotations

import dataclasses
from typing import Any

from verbot.models.registries import Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe, Reinforcement
from verbot.recipes.rl.navigation import navigation_ppo
from verbot.training.rl.config import PerceptionWarmup, ReinforceInitConfig, RewardShaping


@recipes.register("navigation-language", needs=("stable_baselines3",))
def navigation_language() -> Recipe:
    """Train the reward model first: ``python experiments/language_reward.py outputs/reward_model.safetensors``."""
    return dataclasses.replace(
        _by("language", reward_model="outputs/reward_model.safetensors", weight=8.0, cost=0.5),
        name="navigation-language",
        about="goes to the object that the instruction names, by a language reward model, from a policy after perception warm-up",
    )


@recipes.register("navigation-airl", needs=("stable_baselines3",))
def navigation_airl() -> Recipe:
    """The demonstrations are those of ``verbot collect --suite navigation-compass --tasks go --episodes 200 --seed 1``."""
    return dataclasses.replace(
        _by("adversarial", demonstrations=200, seed=1),
        name="navigation-airl",
        about="goes to the object that the instruction names, by a reward from 200 demonstrations, from a policy after "
        "perception warm-up",
    )


def _by(reward: str, **options: Any) -> Recipe:
    """Train the perception first: ``verbot train navigation-ppo --out outputs/warmed --set steps=122880``."""
    base = navigation_ppo()
    stage = dataclasses.replace(
        base.reinforcement,
        env=dataclasses.replace(base.reinforcement.env, tasks=("go",)),
        init=ReinforceInitConfig("outputs/warmed/policy"),
        reward_shaping=RewardShaping(),
        perception_warmup=PerceptionWarmup(updates=0),
        reward=Part(reward, options),
        steps=200_000,
    )
    return dataclasses.replace(base, stages=(Reinforcement(stage),))
