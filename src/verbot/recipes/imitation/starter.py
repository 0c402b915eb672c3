"""The starter suite from scratch: in seven minutes, and in twenty."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import DEFAULT_DATASET, Imitation, Recipe, process_count
from verbot.rollout.collect import CollectConfig
from verbot.training import AugmentConfig, TrainConfig
from verbot.training.imitation.records import BudgetConfig, DataConfig, OptimizerConfig, ParallelismConfig

SUITE, BATCH = "tabletop-starter", 64


def training(minutes: float) -> TrainConfig:
    """How the tabletop recipes train, chosen by closed-loop success at equal samples; see docs/notebook."""
    network = NetworkConfig(
        vision=Part("query_conv", {"channels": 24, "features": 48}),
        language=Part("minilm", {"depth": 3}),
        fusion=Part("concat"),
    )
    return TrainConfig(
        DataConfig(DEFAULT_DATASET, batch_size=BATCH),
        BudgetConfig(minutes=minutes),
        network,
        augment=AugmentConfig(blank_instruction=0.05, grounding_queries=4),
        optimizer=OptimizerConfig(learning_rate=2e-3),
        parallelism=ParallelismConfig(processes=process_count(BATCH)),
    )


@recipes.register("starter")
def starter() -> Recipe:
    """From nothing to a robot that obeys."""
    return Recipe(
        name="starter",
        about="pick, push and put from nothing, in seven minutes of two cores",
        collection=CollectConfig(env=SUITE, episodes=1600),
        stages=(Imitation(training(minutes=4.0)),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )


@recipes.register("starter-long")
def starter_long() -> Recipe:
    """More demonstrations, twice the training: so the policy that ships with verbot was made."""
    return Recipe(
        name="starter-long",
        about="pick, push and put: 4000 demonstrations and twelve minutes of training",
        collection=CollectConfig(env=SUITE, episodes=4000),
        stages=(Imitation(training(minutes=12.0)),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=501),
    )
