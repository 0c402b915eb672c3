"""The navigation world without its own reward: by a scorer of states in words, and by what demonstrations show."""

from __future__ import annotations

import dataclasses
from typing import Any

from verbot.models.registries import Part
from verbot.recipes.rl import TrialConfig, trials
from verbot.recipes.rl.navigation import navigation_ppo
from verbot.training.rl.config import Looking, ReinforceConfig


@trials.register("navigation-language")
def navigation_language() -> TrialConfig:
    """The scorer is trained first: ``python experiments/language_reward.py outputs/scorer.safetensors``."""
    return TrialConfig(
        name="navigation-language",
        about="goes to what is named, from a policy that has only looked, by what a scorer of states in words says",
        reinforcement=_told("language", scorer="outputs/scorer.safetensors", weight=8.0, cost=0.5),
    )


@trials.register("navigation-airl")
def navigation_airl() -> TrialConfig:
    """The demonstrations are those of ``verbot collect --suite navigation-compass --tasks go --episodes 200 --seed 1``."""
    return TrialConfig(
        name="navigation-airl",
        about="goes to what is named, from a policy that has only looked, by a reward recovered from 200 demonstrations",
        reinforcement=_told("adversarial", demonstrations=200, seed=1),
    )


def _told(reward: str, **options: Any) -> ReinforceConfig:
    """Where things are is known: ``verbot reinforce navigation-ppo --out outputs/looked --set steps=122880``."""
    return dataclasses.replace(
        navigation_ppo().reinforcement,
        tasks=("go",),
        headway=0.0,
        ratchet=0.0,
        looking=Looking(updates=0),
        policy="outputs/looked/policy",
        reward=Part(reward, options),
        steps=200_000,
    )
