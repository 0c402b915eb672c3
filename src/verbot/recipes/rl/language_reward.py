"""The navigation world without its own reward: by a scorer of states in words, and by what demonstrations show."""

from __future__ import annotations

import dataclasses
from typing import Any

from verbot.models.registries import Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe, Reinforcement
from verbot.recipes.rl.navigation import navigation_ppo
from verbot.training.rl.config import Looking


@recipes.register("navigation-language", needs=("stable_baselines3",))
def navigation_language() -> Recipe:
    """The scorer is trained first: ``python experiments/language_reward.py outputs/scorer.safetensors``."""
    return dataclasses.replace(
        _by("language", scorer="outputs/scorer.safetensors", weight=8.0, cost=0.5),
        name="navigation-language",
        about="goes to the object that the instruction names, by a language reward model, from a policy that has only looked",
    )


@recipes.register("navigation-airl", needs=("stable_baselines3",))
def navigation_airl() -> Recipe:
    """The demonstrations are those of ``verbot collect --suite navigation-compass --tasks go --episodes 200 --seed 1``."""
    return dataclasses.replace(
        _by("adversarial", demonstrations=200, seed=1),
        name="navigation-airl",
        about="goes to the object that the instruction names, by a reward from 200 demonstrations, from a policy that has only "
        "looked",
    )


def _by(reward: str, **options: Any) -> Recipe:
    """Where things are is known: ``verbot reinforce navigation-ppo --out outputs/looked --set steps=122880``."""
    base = navigation_ppo()
    stage = dataclasses.replace(
        base.reinforcement,
        tasks=("go",),
        headway=0.0,
        ratchet=0.0,
        looking=Looking(updates=0),
        policy="outputs/looked/policy",
        reward=Part(reward, options),
        steps=200_000,
    )
    return dataclasses.replace(base, stages=(Reinforcement(stage),))
