"""π0: a vision-language model and a flow-matching action expert (Black et al. 2024)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, paper, tiny

# SigLIP So400m/14 at 224 pixels (Zhai et al. 2023), the vision encoder of PaliGemma.
SO400M = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
    "num_attention_heads": 16, "patch_size": 14, "image_size": 224,
}  # fmt: skip


@recipes.register("pi0")
def pi0() -> Recipe:
    """Patches, words and state through one transformer; an action expert over ten actions attends to it layer by layer.

    Four additional tokens summarize the image tokens in order. Without them, as published, it learns nothing from so few samples
    (docs/results/parts.md).
    """
    network = NetworkConfig(
        vision=Part("vit", {"patch": 8, "dim": 96, "depth": 2}),
        language=MINILM,
        fusion=Part("concat", {"layers": 3, "hidden": 0, "overview": 4}),
        head=Part("flow_expert", {"hidden": 64, "layers": 3, "steps": 10, "layerwise": True}),
    )
    return tiny("pi0", "one transformer over images and instruction, and a flow-matching action expert", network, 7e-4)


@recipes.register("pi0-paper")
def pi0_paper() -> Recipe:
    """3.3 B parameters published, 0.3 B of them the expert's; here 2.78 B, without PaliGemma's embeddings of 257,152 tokens
    (0.53 B): only words that occur have embeddings.

    Sources: Physical-Intelligence/openpi, ``models/gemma.py`` (18 layers of width 2048 and feed-forward 16,384; the expert 18 of
    width 1024 and 4096; 8 heads), ``models/pi0.py`` (SigLIP So400m/14, ten integration steps), ``training/optimizer.py`` (peak
    2.5e-5 after 1000 steps); 50 actions. Gemma's gated feed-forward layer of three matrices is here one of two, eleven times the
    width, and its attention has keys and values for each head: 109 M a layer for 110 M. The expert has keys
    and values of its own for each layer of the model, 38 M more. The state is a token of the model, not of the expert;
    PaliGemma's weights do not fit.
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": SO400M, "heatmaps": 3}),
        language=Part("word_embedding", {"layers": 0}),
        fusion=Part("concat", {"layers": 18, "heads": 8, "hidden": 0, "expansion": 11}),
        head=Part(
            "flow_expert",
            {"hidden": 1024, "layers": 18, "heads": 8, "expansion": 4, "steps": 10, "draws": 1, "layerwise": True},
        ),
        width=2048,
        chunk=50,
    )
    return paper(
        "pi0-paper", "π0 in its published size, 3.3 B parameters", network, 224, ["front", "wrist"],
        steps=30_000, batch_size=32, learning_rate=2.5e-5, warmup_steps=1000, weight_decay=0.0, execute=25,
    )  # fmt: skip
