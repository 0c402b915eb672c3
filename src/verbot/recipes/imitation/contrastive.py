"""What sees and listens, learned from pictures with captions before anything is demonstrated."""

from __future__ import annotations

import dataclasses

from verbot.evaluation import EvaluationConfig
from verbot.models.network import Objective
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.starter import SUITE, training
from verbot.rollout.collect import CollectConfig
from verbot.training import AugmentConfig


@recipes.register("contrastive")
def contrastive() -> Recipe:
    """The starter's encoders, told apart what is true of a scene and what is not. What comes of it cannot act: begin with it."""
    run = training(minutes=3.0)
    network = dataclasses.replace(run.network, objectives={"contrastive": Objective()})
    return Recipe(
        name="contrastive",
        about="the starter's vision and language from captioned pictures alone, to begin a policy with",
        collection=CollectConfig(env=SUITE, episodes=4000, first=6, options={"captions": 16}),
        stages=(Imitation(dataclasses.replace(run, network=network, augment=AugmentConfig(captions=2))),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )
