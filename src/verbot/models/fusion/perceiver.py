"""Perceiver: learned queries attend to all tokens, then to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from verbot.models.layers.transformer import (
    Block,
    FusedToken,
    TypePositionEmbedding,
    flat,
    observation_counts,
    observation_groups,
    sharpen,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("perceiver")
class Perceiver(nn.Module):
    """`queries` learned tokens attend to all tokens once, followed by `layers` of self-attention; they are the output.

    The cost is linear in the number of tokens. Source: Jaegle et al. 2021.

    Keys of the attentions: all groups in the given order in `read`, the queries in `blocks`.

    Args:
        hidden: if not 0, an MLP maps the queries and the concatenated observation tokens (the flat path) to one token of this
            width.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], queries: int = 32, layers: int = 2, heads: int = 4, hidden: int = 0
    ):
        super().__init__()
        self.width, self.count = (hidden, 1) if hidden else (sizes.width, queries)
        self.summary = FusedToken((queries + sum(observation_counts(counts).values())) * sizes.width, hidden) if hidden else None
        self.marks, self.keys = TypePositionEmbedding(sizes, counts), nn.LayerNorm(sizes.width)
        self.queries = nn.Parameter(torch.randn(queries, sizes.width) / math.sqrt(sizes.width))
        self.read = Block(sizes.width, heads)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)
        sharpen(self)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        joined = join(self.marks(groups))
        x = self.read(self.queries.expand(joined.tokens.shape[0], -1, -1), joined.mask, self.keys(joined.tokens))  # (b, q, e)
        everything = x.new_ones(x.shape[:2], dtype=torch.bool)
        for block in self.blocks:
            x = block(x, everything)
        fused = TokenGroup(self.norm(x), everything, "fused")
        return fused if self.summary is None else self.summary(flat(fused), flat(join(observation_groups(groups))))
