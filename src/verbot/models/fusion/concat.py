"""Self-attention over the concatenated tokens."""

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
    observation_counts,
    observation_groups,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("concat")
class Concat(nn.Module):
    """`layers` of self-attention over all tokens, with type and position embeddings.

    Order of the tokens: all groups in the given order, then the overview tokens.

    Args:
        hidden: width of the output token, an MLP of the pooled sequence and the concatenated observation tokens (the flat path).
            0 returns the whole sequence, with the inputs of each layer.
        overview: with `hidden=0`, number of additional tokens, computed from the concatenated observation tokens. They replace
            the flat path.
        expansion: expansion of the feed-forward layers.
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
            raise ConfigError(f"an overview of {overview} tokens needs hidden=0: with hidden={hidden} the output is one token")
        self.width, self.count = hidden or sizes.width, 1 if hidden else 0
        self.gives_layers = 0 if hidden else layers
        self.marks = TypePositionEmbedding(sizes, counts)
        self.blocks = nn.ModuleList(Block(sizes.width, heads, expansion) for _ in range(layers))
        places = sum(observation_counts(counts).values())
        if hidden:
            self.pool, self.summary = AttentionPool(sizes.width, heads), FusedToken((places + 1) * sizes.width, hidden)
        else:
            self.norm = nn.LayerNorm(sizes.width)
        self.overview = Overview(places, overview, sizes.width) if overview else None

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        joined = join(self.marks(groups))
        if self.overview is not None:
            joined = join([joined, self.overview(flat(join(observation_groups(groups))))])
        x, states = joined.tokens, []  # (b, n, e)
        for block in self.blocks:
            states.append(x)
            x = block(x, joined.mask)
        if self.count == 0:
            return TokenGroup(self.norm(x), joined.mask, "fused", layers=tuple(states))
        return self.summary(self.pool(TokenGroup(x, joined.mask, "all")), flat(join(observation_groups(groups))))
