"""An MLP on the concatenated tokens."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.models.layers.transformer import AttentionPool, sharpen
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup


@fusions.register("mlp")
class Mlp(nn.Module):
    """An MLP on all token groups except words, concatenated with masked tokens as zeros; the output is one token.

    Args:
        hidden, layers: width and number of hidden layers.
        readings: number of additional attention pools of the words. The sentence embedding is trained for the visual encoder and
            may ignore words that it does not need, such as the verb if two tasks have the same object.
    """

    def __init__(self, sizes: Sizes, counts: Mapping[str, int], hidden: int = 384, layers: int = 2, readings: int = 0):
        super().__init__()
        self.width, self.count = hidden, 1
        width = sizes.width
        self.readings = nn.ModuleList(nn.Sequential(AttentionPool(width), nn.LayerNorm(width)) for _ in range(readings))
        sharpen(self.readings)
        inputs = [width * (readings + sum(n for kind, n in counts.items() if kind != "words"))]
        widths = inputs + [hidden] * layers
        made = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        for layer in made:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # with torch's default, signals decay from layer to layer
        self.layers = nn.ModuleList(made)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        flat = [g.tokens.masked_fill(~g.mask.unsqueeze(-1), 0).flatten(1) for g in groups if g.kind != "words"]
        flat += [reading(g) for g in groups if g.kind == "words" for reading in self.readings]
        x: Tensor = torch.cat(flat, 1)  # (b, n·e)
        for layer in self.layers:
            x = torch.relu(layer(x))
        return TokenGroup(x.unsqueeze(1), x.new_ones(x.shape[0], 1, dtype=torch.bool), "fused")
