"""All tokens in one sequence, which attends to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from verbot.errors import ConfigError
from verbot.models.layers.transformer import (
    AttentionPool,
    Block,
    FusedToken,
    Overview,
    TypePositionEmbedding,
    flat,
    seen,
    seen_counts,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("concat")
class Concat(nn.Module):
    """All groups side by side, every token marked with what it is, through `layers` of self-attention.

    Attended to: all groups, in the order in which they come, then the overview.

    Args:
        hidden: width of the one token that all ends in: the sequence pooled, and beside it, on a path of their own, the tokens
            that were seen, each in its place. 0 gives out the whole sequence instead, with the state that went into each layer.
        overview: with `hidden=0`, so many tokens more in the sequence, made of all that were seen, each in its place: what has no
            path of its own past the sequence has one within it.
        expansion: of the feed-forward layers.
    """

    def __init__(
        self,
        sizes: Sizes,
        counts: Mapping[str, int],
        layers: int = 2,
        heads: int = 4,
        hidden: int = 256,
        expansion: int = 2,
        overview: int = 0,
    ):
        super().__init__()
        if hidden and overview:
            raise ConfigError(f"an overview of {overview} tokens needs hidden=0: with hidden={hidden} all ends in one token")
        self.width, self.count = hidden or sizes.width, 1 if hidden else 0
        self.gives_layers = 0 if hidden else layers
        self.marks = TypePositionEmbedding(sizes, counts)
        self.blocks = nn.ModuleList(Block(sizes.width, heads, expansion) for _ in range(layers))
        places = sum(seen_counts(counts).values())
        if hidden:
            self.pool, self.summary = AttentionPool(sizes.width, heads), FusedToken((places + 1) * sizes.width, hidden)
        else:
            self.norm = nn.LayerNorm(sizes.width)
        self.overview = Overview(places, overview, sizes.width) if overview else None

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        joined = join(self.marks(groups))
        if self.overview is not None:
            joined = join([joined, self.overview(flat(join(seen(groups))))])
        x, states = joined.tokens, []  # (b, n, e)
        for block in self.blocks:
            states.append(x)
            x = block(x, joined.mask)
        if self.count == 0:
            return TokenGroup(self.norm(x), joined.mask, "fused", layers=tuple(states))
        return self.summary(self.pool(TokenGroup(x, joined.mask, "all")), flat(join(seen(groups))))
