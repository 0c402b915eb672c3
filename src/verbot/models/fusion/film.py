"""Late FiLM: the sentence scales and shifts observation tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from verbot.models.layers.transformer import observation_groups
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("film")
class Film(nn.Module):
    """`layers` residual blocks on every observation token, with hidden features (1 + γ)·h + β; γ and β come from the sentence.

    The output contains all observation tokens and the sentence.

    Source: Perez et al. 2018.
    """

    def __init__(self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, expansion: int = 2):
        super().__init__()
        hidden = expansion * sizes.width
        self.width, self.count = sizes.width, sum(n for kind, n in counts.items() if kind != "words")
        self.rise = nn.ModuleList(nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, hidden)) for _ in range(layers))
        self.fall = nn.ModuleList(nn.Linear(hidden, sizes.width) for _ in range(layers))
        self.film = nn.Linear(sizes.width, layers * 2 * hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        (sentence,) = (g for g in groups if g.kind == "sentence")
        places = join(observation_groups(groups))
        x = places.tokens  # (b, n, e)
        modulation = self.film(sentence.tokens).chunk(2 * len(self.rise), -1)  # each (b, 1, hidden)
        for rise, fall, scale, shift in zip(self.rise, self.fall, modulation[::2], modulation[1::2], strict=True):
            x = x + fall(torch.relu(torch.addcmul(shift, rise(x), 1 + scale)))
        both = join([TokenGroup(x, places.mask, "seen"), sentence])
        return TokenGroup(both.tokens, both.mask, "fused")
