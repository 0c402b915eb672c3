"""A goal told in words, or shown as a picture."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny
from verbot.training import AugmentConfig


@recipes.register("goal-conditioned")
def goal_conditioned() -> Recipe:
    """A third of the samples are shown the end of their episode and told nothing; one network obeys either.

    The goal image is read beside the picture of now, and its tokens, marked as a picture's, follow where the words stand.
    """
    network = NetworkConfig(
        vision=Part("query_conv", {"channels": 24, "features": 48, "by_place": True}),
        language=MINILM,
        fusion=Part("concat"),
        goal=Part("goal_conv"),
    )
    augment = AugmentConfig(blank_instruction=0.02, grounding_queries=4, goal_image=0.33)
    return tiny("goal-conditioned", "obeys a sentence, or a picture of the wanted state", network, 1e-3, augment=augment)
