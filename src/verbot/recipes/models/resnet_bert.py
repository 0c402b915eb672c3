"""ResNet and BERT joined by cross-attention."""

from __future__ import annotations

from verbot.models.config import default_objectives
from verbot.models.network import NetworkConfig, Objective, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny

# The bottleneck blocks of ResNet-50 (He et al. 2016), two stages of them: their grid of 8×8 is what a 64×64 image leaves.
RESNET = {
    "model_type": "resnet", "embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 2], "layer_type": "bottleneck",
}  # fmt: skip


@recipes.register("resnet-bert")
def resnet_bert() -> Recipe:
    """The words of a BERT attend to the positions of a ResNet's feature map, then to each other; an action head reads them.

    The BERT is MiniLM, distilled from one and frozen (Wang et al. 2020), all six layers. A value head tells beside it how near
    success is, learned from how many steps each demonstration still took. With a network,
    ``vision.checkpoint=microsoft/resnet-50`` and ``language=hf_language`` take the published weights.
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": RESNET, "size": "image"}),
        language=Part("minilm"),
        fusion=Part("cross_attention", {"layers": 2}),
        objectives=default_objectives() | {"value": Objective(0.1)},
    )
    return tiny("resnet-bert", "words of a BERT attend to the feature map of a ResNet", network, 7e-4)
