"""The full suite, all eleven tasks, in an hour."""

from __future__ import annotations

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import RunConfig
from verbot.recipes.presets.starter import training

SUITE = "tabletop-full"


@recipes.register("full-hour")
def full_hour() -> RunConfig:
    """All tasks: more demonstrations, longer training."""
    return RunConfig(
        name="full-hour",
        about="all eleven tasks in an hour of two cores",
        collection=CollectConfig(env=SUITE, episodes=8000),
        training=training(minutes=30.0),
        evaluation=EvaluationConfig(suite=SUITE, episodes=550),
    )
