"""Behavior cloning in the navigation environment: the expert's seven discrete actions."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe, process_count
from verbot.recipes.imitation.starter import training
from verbot.recipes.overrides import override
from verbot.rollout.collect import CollectConfig

SUITE, BATCH = "navigation-compass", 32

NETWORK = NetworkConfig(
    # The place where a followed line turns bright is two pixels wide.
    vision=Part("query_conv", {"channels": 48, "features": 64, "heatmaps": 3, "stem": 24}),
    language=Part("word_embedding"),
    fusion=Part("mlp", {"readings": 4}),  # the pooled sentence learns to locate objects, and would ignore the verb
    chunk=1,
)


@recipes.register("navigation")
def navigation() -> Recipe:
    """Discrete moves up, down, left and right in the image, one per step.

    Objects are located within a few hundred steps; choosing the action takes more. Batches are small and grounding queries few.
    """
    training_config = override(
        training(minutes=6.0),
        {"network": NETWORK, "batch_size": BATCH, "processes": process_count(BATCH), "ema_decay": 0.99, "grounding_queries": 1},
    )
    return Recipe(
        name="navigation",
        about="go to, go around and follow in the navigation environment: 1200 demonstrations, six minutes of training",
        collection=CollectConfig(env=SUITE, episodes=1200),
        stages=(Imitation(training_config),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )
