"""The full suite, all eleven tasks, in an hour."""

from __future__ import annotations

from dataclasses import replace

from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.starter import training
from verbot.rollout.collect import CollectConfig
from verbot.training import DaggerConfig

SUITE = "tabletop-full"


@recipes.register("full-hour")
def full_hour() -> Recipe:
    """All eleven tasks: more demonstrations, longer training, and DAgger corrections."""
    return Recipe(
        name="full-hour",
        about="all eleven tasks in an hour on two cores",
        collection=CollectConfig(env=SUITE, episodes=8000),
        stages=(
            Imitation(
                replace(training(minutes=38.0), dagger=DaggerConfig(rounds=4, env=SUITE, episodes=300, max_steps=50, weight=3.0))
            ),
        ),
        evaluation=EvaluationConfig(suite=SUITE, episodes=550),
    )
