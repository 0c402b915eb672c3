"""Goals as instructions or as images."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny
from verbot.training import AugmentConfig


@recipes.register("goal-conditioned")
def goal_conditioned() -> Recipe:
    """In a third of the samples the last image of the episode replaces the instruction; one network reads either.

    The goal image is encoded together with the current image. Its tokens, with their own type embedding, follow those of words.
    """
    network = NetworkConfig(
        vision=Part("query_conv", {"channels": 24, "features": 48, "by_place": True}),
        language=MINILM,
        fusion=Part("concat"),
        goal=Part("goal_conv"),
    )
    augment = AugmentConfig(blank_instruction=0.02, grounding_queries=4, goal_image=0.33)
    return tiny("goal-conditioned", "conditioned on an instruction or a goal image", network, 1e-3, augment=augment)
