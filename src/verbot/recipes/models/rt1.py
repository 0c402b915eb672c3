"""RT-1: a language-conditioned EfficientNet, TokenLearner, a transformer over time, action bins (Brohan et al. 2022)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.policy.policy import Preprocessing
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, WORDS_ALONE, paper, tiny

# EfficientNet-B3 (Tan & Le 2019): its 26 blocks follow from B0's and the two coefficients.
B3 = {
    "model_type": "efficientnet", "width_coefficient": 1.2, "depth_coefficient": 1.4, "image_size": 300, "hidden_dim": 1536,
    "depthwise_padding": [5, 18],
}  # fmt: skip
# Four inverted bottlenecks to a grid of 8×8.
SMALL = {
    "model_type": "efficientnet", "width_coefficient": 0.5, "depth_coefficient": 1.0, "image_size": 64, "hidden_dim": 640,
    "in_channels": [32, 32, 48], "out_channels": [32, 48, 80], "kernel_sizes": [3, 3, 5], "strides": [2, 1, 2],
    "expand_ratios": [1, 4, 4], "num_block_repeats": [1, 1, 2], "depthwise_padding": [],
}  # fmt: skip
RAW = Preprocessing(action="none")  # bins lie between the least and the greatest of the training actions


@recipes.register("rt1")
def rt1() -> Recipe:
    """Two frames 0.3 s apart where the paper has six at 3 Hz, eight tokens each, one action.

    The image tokens also bypass the transformer, concatenated in order. Without this path, as published, it learns nothing from
    so few samples (docs/results/parts.md).
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": SMALL, "size": "image", "film": True}),
        language=MINILM,
        fusion=Part("temporal", {"learned": 8, "layers": 3, "hidden": 256}),
        head=Part("bins", {"convention": "rt1"}),
        chunk=1,
        history=2,
        stride=3,
    )
    return tiny(
        "rt1", "EfficientNet with FiLM, TokenLearner, a transformer over time, 256 bins", network, 7e-4, preprocessing=RAW
    )


@recipes.register("rt1-paper")
def rt1_paper() -> Recipe:
    """35 M parameters without the frozen text encoder, as the paper counts: 16 M for the EfficientNet-B3 with FiLM (26
    blocks), 19 M for the transformer's 8 layers.

    Sources: the paper, §5; google-research/robotics_transformer, ``configs/transformer_mixin.gin`` (8 layers, 8 heads, width 512,
    six frames, 256 bins, learning rate 1e-4). There a layer's attention is 1024 wide and its feed-forward one matrix of 512×512;
    here attention is 512 wide and the feed-forward layer has two of 512×1024: 2.10 M a layer for 2.36 M. Sentences come from
    MiniLM in place of the Universal Sentence Encoder; the robot's state is an input, which RT-1 has not.
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": B3, "size": 300, "film": True, "heatmaps": 3}),
        language=WORDS_ALONE,
        fusion=Part("temporal", {"learned": 8, "layers": 8, "heads": 8}),
        head=Part("bins", {"convention": "rt1", "decode": "argmax", "pooled": True}),
        width=512,
        chunk=1,
        history=6,
        stride=3,
    )
    return paper(
        "rt1-paper", "RT-1 in its published size, 35 M parameters", network, 300, ["front"],
        steps=100_000, batch_size=64, learning_rate=1e-4, preprocessing=RAW,
    )  # fmt: skip
