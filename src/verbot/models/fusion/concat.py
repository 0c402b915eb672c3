"""All tokens in one sequence, which attends to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from verbot.models.layers import Block
from verbot.models.parts import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("concat")
class Concat(nn.Module):
    """Words, sentence, vision and state side by side, each marked with its kind, through `layers` of self-attention."""

    def __init__(self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, heads: int = 4):
        super().__init__()
        self.width, self.count = sizes.width, 0
        self.kinds = nn.ParameterDict({kind: nn.Parameter(torch.randn(sizes.width) * 0.02) for kind in ("words", *counts)})
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        joined = join([TokenGroup(g.tokens + self.kinds[g.kind], g.mask, g.kind) for g in groups])
        x = joined.tokens  # (b, n, e)
        for block in self.blocks:
            x = block(x, joined.mask)
        return TokenGroup(self.norm(x), joined.mask, "fused")
