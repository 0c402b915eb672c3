"""A plain vision-language-action model: a vision transformer, a language encoder, and a transformer over their tokens."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny


@recipes.register("vit-vla")
def vit_vla() -> Recipe:
    """Patches, words and the robot's state as tokens of one sequence with self-attention; an action chunk is read from it.

    Vision: Dosovitskiy et al. 2021. No paper defines a size for the whole model.
    """
    network = NetworkConfig(
        vision=Part("vit", {"patch": 8, "dim": 96, "depth": 3}),
        language=MINILM,
        fusion=Part("concat", {"layers": 2, "hidden": 256}),
    )
    return tiny("vit-vla", "vision transformer, language and state in one sequence of tokens", network, 7e-4)
