"""All tokens in one sequence, which attends to itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from verbot.models.layers import AttentionPool, Block, Marks, Summary, flat, seen, seen_counts
from verbot.models.parts import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("concat")
class Concat(nn.Module):
    """All groups side by side, every token marked with what it is, through `layers` of self-attention.

    Attended to: all groups, in the order in which they come.

    Args:
        hidden: width of the one token that all ends in: the sequence pooled, and beside it, on a path of their own, the tokens
            that were seen, each in its place. 0 gives out the whole sequence instead, with the state that went into each layer.
        expansion: of the feed-forward layers.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, heads: int = 4, hidden: int = 256, expansion: int = 2
    ):
        super().__init__()
        self.width, self.count = hidden or sizes.width, 1 if hidden else 0
        self.gives_layers = 0 if hidden else layers
        self.marks = Marks(sizes, counts)
        self.blocks = nn.ModuleList(Block(sizes.width, heads, expansion) for _ in range(layers))
        if hidden:
            places = sum(seen_counts(counts).values())
            self.pool, self.summary = AttentionPool(sizes.width, heads), Summary((places + 1) * sizes.width, hidden)
        else:
            self.norm = nn.LayerNorm(sizes.width)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        joined = join(self.marks(groups))
        x, states = joined.tokens, []  # (b, n, e)
        for block in self.blocks:
            states.append(x)
            x = block(x, joined.mask)
        if self.count == 0:
            return TokenGroup(self.norm(x), joined.mask, "fused", layers=tuple(states))
        return self.summary(self.pool(TokenGroup(x, joined.mask, "all")), flat(join(seen(groups))))
