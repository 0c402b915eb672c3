"""The navigation world from scratch: behavior cloning of the expert's seven actions."""

from __future__ import annotations

import dataclasses

from verbot.collection import CollectConfig
from verbot.evaluation import EvaluationConfig
from verbot.recipes import recipes
from verbot.recipes.config import RunConfig
from verbot.recipes.presets.starter import training


@recipes.register("navigation")
def navigation() -> RunConfig:
    """The starter's network with one camera; a short chunk, for actions are seven classes and a turn is as long as a step."""
    run = training(minutes=4.0)
    network = dataclasses.replace(run.network, chunk=4)
    return RunConfig(
        name="navigation",
        about="go to, go around and follow in the navigation world, in six minutes of two cores",
        collection=CollectConfig(env="navigation", episodes=1200),
        training=dataclasses.replace(run, network=network),
        evaluation=EvaluationConfig(suite="navigation", episodes=300),
    )
