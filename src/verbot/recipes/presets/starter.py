"""The starter suite from scratch: in minutes, and in an hour."""

from __future__ import annotations

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import HERE, RunConfig, members
from verbot.training import AugmentConfig, DaggerConfig, TrainConfig

SUITE, BATCH = "tabletop-starter", 64


@recipes.register("starter")
def starter() -> RunConfig:
    """From nothing to a robot that obeys."""
    return RunConfig(
        name="starter",
        about="pick, push and put from nothing, in ten minutes of two cores",
        collection=CollectConfig(env=SUITE, episodes=1600),
        training=TrainConfig(
            datasets=HERE,
            minutes=6.5,
            batch_size=BATCH,
            augment=AugmentConfig(relabel=0.3),
            processes=members(BATCH),
        ),
        evaluation=EvaluationConfig(suite=SUITE, episodes=200, execute=2),
    )


@recipes.register("starter-hour")
def starter_hour() -> RunConfig:
    """More demonstrations, longer training, the expert's corrections."""
    return RunConfig(
        name="starter-hour",
        about="pick, push and put in an hour of two cores, with the expert's corrections",
        collection=CollectConfig(env=SUITE, episodes=4000),
        training=TrainConfig(
            datasets=HERE,
            minutes=50.0,
            batch_size=BATCH,
            augment=AugmentConfig(relabel=0.3),
            dagger=DaggerConfig(rounds=3, env=SUITE, episodes=400),
            processes=members(BATCH),
        ),
        evaluation=EvaluationConfig(suite=SUITE, episodes=501),
    )
