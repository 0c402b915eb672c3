"""Contrastive pretraining of vision and language encoders on captioned images."""

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
    """Pretrain the starter's encoders to match images with true captions. The policy cannot act; use it as `init_from`."""
    run = training(minutes=3.0)
    network = dataclasses.replace(run.network, objectives={"contrastive": Objective()})
    return Recipe(
        name="contrastive",
        about="contrastive pretraining of the starter's encoders on captioned images; a policy to start others from",
        collection=CollectConfig(env=SUITE, episodes=4000, max_frames=6, options={"captions": 16}),
        stages=(Imitation(dataclasses.replace(run, network=network, augment=AugmentConfig(captions=2))),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )
