"""The full suite, all eleven tasks, in an hour."""

from __future__ import annotations

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import HERE, RunConfig, members
from verbot.recipes.presets.starter import NETWORK
from verbot.training import AugmentConfig, DaggerConfig, TrainConfig

SUITE, BATCH = "tabletop-full", 64


@recipes.register("full-hour")
def full_hour() -> RunConfig:
    """All tasks, demonstrations and the expert's corrections."""
    return RunConfig(
        name="full-hour",
        about="all eleven tasks in an hour of two cores, with the expert's corrections",
        collection=CollectConfig(env=SUITE, episodes=5500),
        training=TrainConfig(
            datasets=HERE,
            network=NETWORK,
            minutes=50.0,
            batch_size=BATCH,
            learning_rate=2e-3,
            augment=AugmentConfig(blank_instruction=0.05, relabel=0.3),
            dagger=DaggerConfig(rounds=3, env=SUITE, episodes=550),
            processes=members(BATCH),
        ),
        evaluation=EvaluationConfig(suite=SUITE, episodes=550),
    )
