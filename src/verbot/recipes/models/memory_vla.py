"""A policy with an external memory and a transformer over past frames."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, tiny


@recipes.register("memory-vla")
def memory_vla() -> Recipe:
    """Six blocks of cross-attention, self-attention and feed-forward layers; an external memory, then a transformer over the last
    three frames and the present; three steps out of 20 actions.

    Both memories learn from sequences of four frames, half a second apart, and store the fused features of past frames.
    Sequences of twice the length, half as many in a batch, reached less (docs/results/parts.md).
    Frozen CLIP is replaced by a trained vision transformer and a frozen MiniLM. With internet access, ``vision=hf_vision``,
    ``vision.mode=frozen`` and ``vision.checkpoint=openai/clip-vit-base-patch32`` load CLIP.
    """
    network = NetworkConfig(
        vision=Part("vit", {"patch": 8, "dim": 64, "depth": 2}),
        language=MINILM,
        fusion=Part("stack", {"layers": 6}),
        memory=Part(
            "chain",
            {
                "parts": [
                    {"name": "external", "options": {"slots": 16}},
                    {"name": "temporal", "options": {"frames": 3, "size": 128, "layers": 2}},
                ]
            },
        ),
        head=Part("sequence", {"steps": 3, "actions": 20}),
        stride=5,
        sequence=4,
    )
    return tiny("memory-vla", "deep cross-attention, slots and past frames, a plan of three steps", network, 7e-4)
