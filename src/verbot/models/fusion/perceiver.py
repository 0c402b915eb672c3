"""A few learned queries read everything, whatever its number, and think among themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from verbot.models.layers.transformer import Block, FusedToken, TypePositionEmbedding, flat, seen, seen_counts, sharpen
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("perceiver")
class Perceiver(nn.Module):
    """`queries` learned tokens attend to all groups once, then through `layers` of self-attention; all are given out.

    The cost grows linearly with the number of words, patches and frames. Source: Jaegle et al. 2021.

    Attended to: in `read` all groups in the order in which they come, in `blocks` the queries.

    Args:
        hidden: where not 0, the queries end in one token of this width, and beside them, on a path of their own, the tokens that
            were seen, each in its place.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], queries: int = 32, layers: int = 2, heads: int = 4, hidden: int = 0
    ):
        super().__init__()
        self.width, self.count = (hidden, 1) if hidden else (sizes.width, queries)
        self.summary = FusedToken((queries + sum(seen_counts(counts).values())) * sizes.width, hidden) if hidden else None
        self.marks, self.keys = TypePositionEmbedding(sizes, counts), nn.LayerNorm(sizes.width)
        self.queries = nn.Parameter(torch.randn(queries, sizes.width) / math.sqrt(sizes.width))
        self.read = Block(sizes.width, heads)
        self.blocks = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)
        sharpen(self)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        joined = join(self.marks(groups))
        x = self.read(self.queries.expand(len(joined.tokens), -1, -1), joined.mask, self.keys(joined.tokens))  # (b, q, e)
        everything = x.new_ones(x.shape[:2], dtype=torch.bool)
        for block in self.blocks:
            x = block(x, everything)
        fused = TokenGroup(self.norm(x), everything, "fused")
        return fused if self.summary is None else self.summary(flat(fused), flat(join(seen(groups))))
