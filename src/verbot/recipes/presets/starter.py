"""The starter suite from scratch: in minutes, in an hour, and in seconds for tests."""

from __future__ import annotations

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.models.network import NetworkConfig
from verbot.models.parts import Part
from verbot.recipes import Recipe, recipes
from verbot.training import AugmentConfig, DaggerConfig, TrainConfig

SUITE = "tabletop-starter"
BATCH_PER_PROCESS = 32


@recipes.register("starter")
def starter(dataset: str, seed: int, workers: int) -> Recipe:
    """From nothing to a robot that obeys, in ten minutes of two cores."""
    return Recipe(
        collect=CollectConfig(env=SUITE, episodes=1600, seed=seed, workers=workers),
        train=TrainConfig(
            datasets=(dataset,),
            minutes=6.5,
            batch_size=BATCH_PER_PROCESS * workers,
            augment=AugmentConfig(relabel=0.3),
            seed=seed,
            processes=workers,
            loader_threads=0,
        ),
        evaluate=EvaluationConfig(suite=SUITE, episodes=200, seed=seed + 1, execute=2, workers=workers),
    )


@recipes.register("starter-hour")
def starter_hour(dataset: str, seed: int, workers: int) -> Recipe:
    """As `starter`, with an hour, more demonstrations and the expert's corrections."""
    return Recipe(
        collect=CollectConfig(env=SUITE, episodes=4000, seed=seed, workers=workers),
        train=TrainConfig(
            datasets=(dataset,),
            minutes=50.0,
            batch_size=BATCH_PER_PROCESS * workers,
            augment=AugmentConfig(relabel=0.3),
            dagger=DaggerConfig(rounds=3, env=SUITE, episodes=400),
            seed=seed,
            processes=workers,
        ),
        evaluate=EvaluationConfig(suite=SUITE, episodes=501, seed=seed + 1, execute=1, workers=workers),
    )


@recipes.register("tiny")
def tiny(dataset: str, seed: int, workers: int) -> Recipe:
    """Seconds long: for tests, and to see that everything runs. It learns nothing."""
    return Recipe(
        collect=CollectConfig(env=SUITE, episodes=6, seed=seed, workers=workers, options={"image_size": 32}),
        train=TrainConfig(
            datasets=(dataset,),
            network=NetworkConfig(width=32, fusion=Part("mlp", {"width": 64})),
            steps=8,
            batch_size=8 * workers,
            validation_share=0.2,
            validation_batches=1,
            seed=seed,
            processes=workers,
        ),
        evaluate=EvaluationConfig(
            suite=SUITE,
            episodes=3,
            conditions=(),
            baselines=False,
            videos=1,
            latency_calls=3,
            execute=5,
            workers=workers,
            options={"image_size": 32, "max_seconds": 2.0},
        ),
    )
