"""RT-2: a vision-language model whose words are actions (Brohan et al. 2023)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Objective, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny


@recipes.register("rt2")
def rt2() -> Recipe:
    """A small language model, from scratch, reads image tokens and the instruction, and says each number of a chunk as a word."""
    network = NetworkConfig(
        backbone=Part("vlm", {"trunk": {"name": "tiny", "options": {"width": 128, "layers": 4}}, "order": ["keypoints", "state", "text"]}),
        vision=Part("query_conv"),
        head=Part("action_tokens", {"convention": "rt2", "decode": "median"}),
        chunk=4,
        objectives={"action": Objective(), "keypoints": Objective(), "grounding_queries": Objective()},
    )
    return tiny("rt2", "a language model over image tokens and words, whose words are actions", network, 1e-3)
