"""Every stage once, in seconds, for tests. The policy learns nothing."""

from __future__ import annotations

from verbot.evaluation import EvaluationConfig
from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import DEFAULT_DATASET, Imitation, Recipe
from verbot.rollout.collect import CollectConfig
from verbot.training import TrainConfig
from verbot.training.imitation.records import BudgetConfig, DataConfig, LoggingConfig, ScheduleConfig, ValidationConfig


@recipes.register("tiny")
def tiny() -> Recipe:
    """Six demonstrations, ten training steps, three evaluation episodes."""
    return Recipe(
        name="tiny",
        about="every stage in seconds, as a smoke test; the policy learns nothing",
        collection=CollectConfig(env="tabletop-starter", episodes=6, workers=1, options={"image_size": 32}),
        stages=(
            Imitation(
                TrainConfig(
                    DataConfig(DEFAULT_DATASET, batch_size=8),
                    BudgetConfig(steps=10),
                    NetworkConfig(vision=Part("film_conv", {"channels": 4, "heatmaps": 4}), width=16, chunk=4),
                    schedule=ScheduleConfig(warmup_steps=2),
                    validation=ValidationConfig(share=0.2, batches=1, every=5),
                    logging=LoggingConfig(log_every=5, checkpoint_every=5),
                )
            ),
        ),
        evaluation=EvaluationConfig(
            suite="tabletop-starter", episodes=3, execute=2, options={"image_size": 32}, conditions=(), videos=1,
            latency_calls=3, workers=1,
        ),
    )  # fmt: skip
