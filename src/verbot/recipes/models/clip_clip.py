"""Both towers of CLIP, side by side."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny

# CLIP ViT-B/32's two transformers (Radford et al. 2021), a tenth as wide.
VISION = {
    "model_type": "clip_vision_model", "image_size": 64, "patch_size": 8, "hidden_size": 96, "intermediate_size": 384,
    "num_hidden_layers": 3, "num_attention_heads": 4,
}  # fmt: skip
TEXT = {
    "model_type": "clip_text_model", "hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 77, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3,
}  # fmt: skip


@recipes.register("clip-clip")
def clip_clip() -> Recipe:
    """The features of CLIP's image and text towers, concatenated and joined by two wide layers.

    In this size both start from random weights. With internet access, ``vision.checkpoint=openai/clip-vit-base-patch32`` and the
    same for ``language.checkpoint`` load the published weights. A classifier of the sentence, trained with the rest, mixes eight
    task embeddings, since an observation has no task label.
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": VISION, "size": "image", "patches": False}),
        language=Part("hf_language", {"architecture": TEXT}),
        fusion=Part("mlp", {"hidden": 352}),
        task_embeddings=8,
    )
    return tiny("clip-clip", "CLIP's two towers, joined", network, 7e-4)
