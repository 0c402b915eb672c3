"""Pretraining of an action autoencoder, without observations."""

from __future__ import annotations

import dataclasses

from verbot.evaluation import EvaluationConfig
from verbot.models.network import NetworkConfig, Objective, Part
from verbot.recipes import recipes
from verbot.recipes.config import Imitation, Recipe
from verbot.recipes.imitation.starter import SUITE, training
from verbot.rollout.collect import CollectConfig
from verbot.training import AugmentConfig


@recipes.register("actions")
def actions() -> Recipe:
    """Pretrains the autoencoder of the head `latent` without observations. Another policy starts with its encoder and decoder."""
    small = Part("film_conv", {"channels": 4, "heatmaps": 3})  # required by the network; the training does not use it
    head = Part("latent", {"pretrain": True})
    network = NetworkConfig(
        vision=small,
        fusion=Part("mlp", {"hidden": 32}),
        head=head,
        width=16,
        image_size=(8, 8),
        objectives={"action": Objective()},
    )
    still = AugmentConfig(shift_pixels=0, brightness=0, contrast=0, saturation=0)
    return Recipe(
        name="actions",
        about="an autoencoder of action chunks, to begin the head `latent` with",
        collection=CollectConfig(env=SUITE, episodes=1600),
        stages=(Imitation(dataclasses.replace(training(minutes=1.0), network=network, augment=still)),),
        evaluation=EvaluationConfig(suite=SUITE, episodes=300),
    )
