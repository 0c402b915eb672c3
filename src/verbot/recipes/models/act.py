"""ACT: action chunks by a conditional variational autoencoder (Zhao et al. 2023)."""

from __future__ import annotations

from verbot.models.network import NetworkConfig, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import MINILM, WORDS_ALONE, paper, tiny

ENSEMBLING = 0.01  # the paper's m
RESNET_18 = {
    "model_type": "resnet", "embedding_size": 64, "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2],
    "layer_type": "basic",
}  # fmt: skip
SMALL = {**RESNET_18, "embedding_size": 32, "hidden_sizes": [32, 64], "depths": [1, 2]}


@recipes.register("act")
def act() -> Recipe:
    """ResNet features, words and state through a transformer encoder; queries decode 20 actions, with temporal ensembling."""
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": SMALL, "size": "image"}),
        language=MINILM,
        fusion=Part("concat", {"layers": 2, "hidden": 0}),
        head=Part("cvae", {"hidden": 96, "layers": 2}),
        chunk=20,
    )
    return tiny("act", "ResNet, transformer and a chunk VAE, with temporal ensembling", network, 7e-4, decay=ENSEMBLING)


@recipes.register("act-paper")
def act_paper() -> Recipe:
    """About 80 M parameters: 83.9 M by the authors' code with one camera, of which a ResNet-18 has 11 M, the encoder of 4 layers
    and that of the style 17 M each, the decoder of 7 layers 38 M.

    Source: the paper's Table III and tonyzhaozh/act, ``imitate_episodes.py``: width 512, 8 heads, feed-forward layers of 3200,
    100 actions, latent 32, β = 10, learning rate 1e-5, batch 8, weight decay 1e-4. Here feed-forward layers have 3072, six times
    the width; the style joins after the encoder instead of before it; the last of the decoder's layers is read, where their code
    read the first; layers are pre-norm. Words are tokens of the encoder: ACT has one task and no instruction. Their
    cameras have a ResNet each, here all share one. A hundred actions are two seconds at their 50 Hz; at 10 Hz they are ten.
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": RESNET_18, "size": "image", "heatmaps": 3}),
        language=WORDS_ALONE,
        fusion=Part("concat", {"layers": 4, "heads": 8, "hidden": 0, "expansion": 6}),
        head=Part("cvae", {"hidden": 512, "layers": 4, "decoder": 7, "heads": 8, "expansion": 6, "latent": 32}),
        width=512,
        chunk=100,
    )
    return paper(
        "act-paper", "ACT in its published size, 80 M parameters", network, 480, ["front"], decay=ENSEMBLING,
        steps=100_000, batch_size=8, learning_rate=1e-5, weight_decay=1e-4, schedule="constant",
    )  # fmt: skip
