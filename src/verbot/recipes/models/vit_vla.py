"""The plain vision-language-action model: a vision transformer, language, and a transformer over all of it."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny


@recipes.register("vit-vla")
def vit_vla() -> Recipe:
    """Patches, words and the robot's state as tokens of one sequence that attends to itself; a chunk is read from it.

    Vision: Dosovitskiy et al. 2021. No paper gives the whole a size.
    """
    network = NetworkConfig(
        vision=Part("vit", {"patch": 8, "dim": 96, "depth": 3}),
        language=MINILM,
        fusion=Part("concat", {"layers": 2, "hidden": 256}),
    )
    return tiny("vit-vla", "vision transformer, language and state in one sequence of tokens", network, 7e-4)
