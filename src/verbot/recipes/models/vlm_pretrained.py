"""A pretrained language model that sees: SmolLM2's first layers as the backbone."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny

SMOLLM2 = {"name": "hf", "options": {"checkpoint": "models:smollm2-135m", "depth": 8, "mode": "frozen"}}


@recipes.register("vlm-pretrained")
def vlm_pretrained() -> Recipe:
    """The first 8 of SmolLM2's 30 layers, frozen, read the words, then heatmaps and the state; 4 readouts become the actions.

    The prefix is causal and begins with the words, so that their keys and values are computed once for each sentence. Few
    heatmaps, because each is a token of the language model in every sample. It needs ``verbot models fetch smollm2-135m``.
    """
    prompt = {"trunk": SMOLLM2, "causal": True, "order": ["text", "keypoints", "state"], "readouts": 4}
    network = NetworkConfig(
        Part("vlm", prompt),
        vision=Part("query_conv", {"channels": 24, "features": 48, "heatmaps": 4}),
        head=Part("regression"),
    )
    return tiny("vlm-pretrained", "images and state in the sentence of a frozen language model, SmolLM2", network, 1e-3)
