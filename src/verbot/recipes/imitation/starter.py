"""Behavior cloning of the starter suite from random weights: in seven minutes, and in twenty."""

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
    """Training settings of the tabletop recipes, chosen by closed-loop success at equal samples; see docs/notebook."""
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
    """Collect 1600 demonstrations, train by behavior cloning for four minutes, and evaluate."""
    return Recipe(
        name="starter",
        about="pick, push and put from random weights, in seven minutes on two cores",
        collection=CollectConfig(env=SUITE, episodes=1600),
        stages=(Imitation(training(minutes=4.0)),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )


@recipes.register("starter-long")
def starter_long() -> Recipe:
    """More demonstrations and longer training. The policy that ships with verbot was made by this recipe."""
    return Recipe(
        name="starter-long",
        about="pick, push and put: 4000 demonstrations and twelve minutes of training",
        collection=CollectConfig(env=SUITE, episodes=4000),
        stages=(Imitation(training(minutes=12.0)),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=501),
    )
