"""The full suite, all eleven tasks, in an hour."""

from __future__ import annotations

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import Recipe, recipes
from verbot.training import AugmentConfig, DaggerConfig, TrainConfig

SUITE = "tabletop-full"


@recipes.register("full-hour")
def full_hour(dataset: str, seed: int, workers: int) -> Recipe:
    """All tasks: demonstrations and the expert's corrections."""
    return Recipe(
        collect=CollectConfig(env=SUITE, episodes=5500, seed=seed, workers=workers),
        train=TrainConfig(
            datasets=(dataset,),
            minutes=50.0,
            batch_size=32 * workers,
            augment=AugmentConfig(relabel=0.3),
            dagger=DaggerConfig(rounds=3, env=SUITE, episodes=550),
            seed=seed,
            processes=workers,
        ),
        evaluate=EvaluationConfig(suite=SUITE, episodes=550, seed=seed + 1, execute=1, workers=workers),
    )
