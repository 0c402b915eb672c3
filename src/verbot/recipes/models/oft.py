"""OpenVLA-OFT: a language model whose placeholder tokens become a chunk of actions in one pass (Kim et al. 2025)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny

CHUNK, NUMBERS = 10, 7  # of an action of the tabletop arm


@recipes.register("oft")
def oft() -> Recipe:
    """Keypoints, state and instruction are the prefix of a decoder. Seventy placeholders follow, one for each number of ten
    actions; they read the prefix and one another, and an MLP maps the seven of an action to it. The loss is L1.

    Unlike the published model the decoder has random weights, placeholders are learned, and image tokens are the keypoints of the
    starter recipe, trained to find the object.
    """
    network = NetworkConfig(
        backbone=Part("vlm", {"order": ["keypoints", "state", "text"], "readouts": CHUNK * NUMBERS}),
        vision=Part("query_conv", {"channels": 24, "features": 48}),
        head=Part("regression", {"per_number": True}),
        chunk=CHUNK,
    )
    return tiny("oft", "a language model whose placeholder tokens become ten actions in one pass, with L1", network, 1e-3)
