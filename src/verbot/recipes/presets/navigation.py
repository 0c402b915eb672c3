"""The navigation world from scratch: behavior cloning of the expert's seven actions."""

from __future__ import annotations

import dataclasses

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import RunConfig, members
from verbot.recipes.presets.starter import training

BATCH = 32


@recipes.register("navigation")
def navigation() -> RunConfig:
    """The starter's network with one camera; a short chunk, for actions are seven classes and a turn is as long as a step.

    Where things are is found within a few hundred steps; when to turn takes many more, so batches are small and questions few.
    """
    run = training(minutes=12.0)
    return RunConfig(
        name="navigation",
        about="go to, go around and follow in the navigation world: 1200 demonstrations, twelve minutes of training",
        collection=CollectConfig(env="navigation", episodes=1200),
        training=dataclasses.replace(
            run,
            network=dataclasses.replace(run.network, chunk=4),
            batch_size=BATCH,
            processes=members(BATCH),
            ema_decay=0.99,
            augment=dataclasses.replace(run.augment, questions=1),
        ),
        evaluation=EvaluationConfig(suite="navigation", episodes=300),
    )
