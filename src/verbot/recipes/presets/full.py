"""The full suite, all eleven tasks, in an hour."""

from __future__ import annotations

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import RunConfig
from verbot.recipes.presets.starter import training
from verbot.training import DaggerConfig

SUITE = "tabletop-full"


@recipes.register("full-hour")
def full_hour() -> RunConfig:
    """All tasks, demonstrations and the expert's corrections."""
    return RunConfig(
        name="full-hour",
        about="all eleven tasks in an hour of two cores, with the expert's corrections",
        collection=CollectConfig(env=SUITE, episodes=5500),
        training=training(minutes=50.0, dagger=DaggerConfig(rounds=3, env=SUITE, episodes=550)),
        evaluation=EvaluationConfig(suite=SUITE, episodes=550),
    )
