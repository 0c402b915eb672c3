"""Language as the modulation of vision, early and late."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import RunConfig
from verbot.recipes.presets.tabletop import MINILM, tiny
from verbot.training import AugmentConfig


@recipes.register("film-policy")
def film_policy() -> RunConfig:
    """The sentence scales and shifts the convolutions' features block by block, and once more the tokens that they give out.

    Source: Perez et al. 2018. Since all that is seen depends on what was said, a question costs a look of its own: the recipe
    asks none, and tells another goal in a share of the frames instead.
    """
    network = NetworkConfig(
        vision=Part("film_conv", {"channels": 24}), language=MINILM, fusion=Part("film", {"layers": 2}),
    )  # fmt: skip
    augment = AugmentConfig(blank_instruction=0.05, relabel=0.3)
    return tiny("film-policy", "the sentence scales and shifts all that is seen", network, 1e-3, augment=augment)
