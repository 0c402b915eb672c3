"""π0 on a language trunk: an action expert that attends to its keys and values (Black et al. 2024)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny

LAYERS, HEADS = 3, 4
TRUNK = {"name": "tiny", "options": {"width": 96, "layers": LAYERS, "heads": HEADS, "key_heads": 2}}


@recipes.register("pi0-lm")
def pi0_lm() -> Recipe:
    """Keypoints, state and instruction are one prefix of a decoder. In each of its layers an expert, two thirds as wide, attends
    to the keys and values of the prefix and to ten noisy actions at once. The decoder has random weights and fitted words.

    Unlike in π0 the image tokens are the keypoints of the starter recipe, trained to find the object, and the state is a token
    of the prefix.
    """
    network = NetworkConfig(
        backbone=Part("vlm", {"trunk": TRUNK, "order": ["keypoints", "state", "text"]}),
        vision=Part("query_conv", {"channels": 24, "features": 48}),
        head=Part("flow_expert", {"hidden": 64, "layers": LAYERS, "heads": HEADS, "expansion": 3, "joint": True}),
    )
    return tiny("pi0-lm", "a language model whose keys and values a flow-matching action expert reads", network, 1e-3)
