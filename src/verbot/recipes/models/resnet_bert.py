"""ResNet and BERT joined by cross-attention."""

from __future__ import annotations

from verbot.models.config import default_objectives
from verbot.models.network import NetworkConfig, Objective, Part
from verbot.recipes import recipes
from verbot.recipes.config import Recipe
from verbot.recipes.models.shared import tiny

# The bottleneck blocks of ResNet-50 (He et al. 2016), in two stages: an image of 64×64 gives a grid of 8×8.
RESNET = {
    "model_type": "resnet", "embedding_size": 32, "hidden_sizes": [64, 128], "depths": [1, 2], "layer_type": "bottleneck",
}  # fmt: skip


@recipes.register("resnet-bert")
def resnet_bert() -> Recipe:
    """The words of a BERT attend to the positions of a ResNet's feature map, then to each other; an action head reads them.

    The BERT is MiniLM, a distilled BERT with six layers, frozen (Wang et al. 2020). A value head predicts how near success is,
    from the remaining steps of each demonstration. With internet access, ``vision.checkpoint=microsoft/resnet-50`` and
    ``language=hf_language`` load the published weights.
    """
    network = NetworkConfig(
        vision=Part("hf_vision", {"architecture": RESNET, "size": "image"}),
        language=Part("minilm"),
        fusion=Part("cross_attention", {"layers": 2}),
        objectives=default_objectives() | {"value": Objective(0.1)},
    )
    return tiny("resnet-bert", "words of a BERT attend to the feature map of a ResNet", network, 7e-4)
