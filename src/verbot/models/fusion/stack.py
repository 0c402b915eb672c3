"""A stack of blocks with cross-attention from words to observations and self-attention of words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from verbot.models.layers.transformer import (
    AttentionPool,
    CrossBlock,
    FusedToken,
    TypePositionEmbedding,
    flat,
    observation_counts,
    observation_groups,
    text_groups,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("stack")
class StackFusion(nn.Module):
    """`layers` blocks: words and sentence attend to observations, then to each other, then a feed-forward layer.

    Keys of the attentions: observations in `blocks.….cross`, words and sentence in `blocks.….own`.

    Args:
        hidden: width of the output token, computed from the pooled words.
        flat: add the flat path: the concatenated observation tokens join the pooled words.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], layers: int = 6, heads: int = 4, hidden: int = 256, flat: bool = True
    ):
        super().__init__()
        self.width, self.count, self.flat = hidden, 1, flat
        self.marks, self.norm = TypePositionEmbedding(sizes, counts), nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(CrossBlock(sizes.width, heads) for _ in range(layers))
        self.pool = AttentionPool(sizes.width, heads)
        places = sum(observation_counts(counts).values()) if flat else 0
        self.summary = FusedToken((places + 1) * sizes.width, hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), join(observation_groups(marked))
        x, keys = words.tokens, self.norm(places.tokens)  # (b, l + 1, e), (b, n, e)
        for block in self.blocks:
            x = block(x, words.mask, keys, places.mask)
        pooled = self.pool(TokenGroup(x, words.mask, "text"))
        return self.summary(pooled, *([flat(join(observation_groups(groups)))] if self.flat else []))
