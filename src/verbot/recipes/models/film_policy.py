"""FiLM: the instruction modulates visual features, early and late."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny


@recipes.register("film-policy")
def film_policy() -> Recipe:
    """The sentence scales and shifts the convolutional features in each block, and their output tokens once more.

    Source: Perez et al. 2018. Visual features depend on the instruction, so each grounding query costs a forward pass of the
    vision encoder; without grounding queries the network does not learn to use words (docs/results/parts.md).
    """
    network = NetworkConfig(
        vision=Part("film_conv", {"channels": 24}), language=MINILM, fusion=Part("film", {"layers": 2}),
    )  # fmt: skip
    return tiny("film-policy", "FiLM: the sentence scales and shifts all visual features", network, 1e-3)
