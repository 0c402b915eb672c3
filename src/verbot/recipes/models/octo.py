"""Octo: readout tokens of a transformer over task and observation, and a diffusion head (Octo Model Team 2024)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, WORDS_ALONE, paper, tiny
from verbot.training import AugmentConfig

STEM = [32, 96, 192, 384]  # channels of the published convolutions before the patches of 16 pixels


@recipes.register("octo")
def octo() -> Recipe:
    """Two frames, patches after two convolutions, one readout token, four actions denoised in 20 steps; goal images.

    The image tokens are also passed to the head, concatenated in order. Without this path, as published, the network learns from
    so few samples no more than a policy without instructions (docs/results/parts.md).
    """
    network = NetworkConfig(
        vision=Part("vit", {"patch": 8, "dim": 96, "depth": 0, "stem": [16, 32]}),
        language=MINILM,
        fusion=Part("readout", {"readouts": 1, "layers": 4, "expansion": 4, "hidden": 256}),
        head=Part("diffusion", {"levels": 20, "steps": 20}),
        goal=Part("goal_conv"),
        chunk=4,
        history=2,
    )
    augment = AugmentConfig(blank_instruction=0.02, grounding_queries=4, goal_image=0.2)
    return tiny("octo", "readout tokens, a diffusion head, goals as instructions or images", network, 7e-4, augment=augment)


def published(name: str, parameters: int, width: int, heads: int) -> Recipe:
    """Width and heads of ViT-S or ViT-B, and what both sizes have in common.

    Sources: octo-models/octo, ``components/transformer.py`` (12 layers, feed-forward layers four times the width),
    ``components/action_heads.py`` (3 layers of 256, 20 diffusion steps, ε predicted, actions clipped at ±5), two frames, four
    actions, patches of 16 pixels after the convolutions of ``components/vit_encoders.py``; ``finetune_config.py`` for batch 256,
    50 000 steps, learning rate 3e-4 after 2000 warm-up steps, weight decay 0.01, z-scored actions. Here all cameras are 256×256
    and share their convolutions, where the wrist's are 128×128 with their own; goal images have an encoder of their own instead
    of more channels; sentences come from MiniLM in place of T5-base; the robot's state is an input, which published Octo has not.
    """
    network = NetworkConfig(
        vision=Part("vit", {"patch": 16, "depth": 0, "heatmaps": 3, "stem": STEM}),
        language=WORDS_ALONE,
        fusion=Part("readout", {"readouts": 1, "layers": 12, "heads": heads, "expansion": 4}),
        head=Part("diffusion", {"levels": 20, "steps": 20, "predict": "noise", "hidden": 256, "layers": 3, "draws": 1}),
        goal=Part("goal_conv"),
        width=width,
        chunk=4,
        history=2,
    )
    return paper(
        name, f"Octo in its published size, {parameters} M parameters", network, 256, ["front", "wrist"],
        steps=50_000, batch_size=256, learning_rate=3e-4, warmup_steps=2000, execute=4,
        augment=AugmentConfig(shift_pixels=8, goal_image=0.5),
    )  # fmt: skip


@recipes.register("octo-small-paper")
def octo_small_paper() -> Recipe:
    """27 M parameters without the frozen text encoder (T5-base, 111 M), as published."""
    return published("octo-small-paper", 27, width=384, heads=6)


@recipes.register("octo-base-paper")
def octo_base_paper() -> Recipe:
    """93 M parameters without the frozen text encoder (T5-base, 111 M), as published."""
    return published("octo-base-paper", 93, width=768, heads=12)
