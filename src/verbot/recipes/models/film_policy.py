"""Language as the modulation of vision, early and late."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny


@recipes.register("film-policy")
def film_policy() -> Recipe:
    """The sentence scales and shifts the convolutions' features block by block, and once more the tokens that they give out.

    Source: Perez et al. 2018. Since all that is seen depends on what was said, each question costs a look of its own; without
    them it does not learn what words are for (docs/results/parts.md).
    """
    network = NetworkConfig(
        vision=Part("film_conv", {"channels": 24}), language=MINILM, fusion=Part("film", {"layers": 2}),
    )  # fmt: skip
    return tiny("film-policy", "the sentence scales and shifts all that is seen", network, 1e-3)
