"""Deep grounding: block upon block in which words look, then talk, then think."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from verbot.models.layers.transformer import (
    AttentionPool,
    CrossBlock,
    FusedToken,
    TypePositionEmbedding,
    flat,
    seen,
    seen_counts,
    text_groups,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("stack")
class StackFusion(nn.Module):
    """`layers` blocks, each: words and sentence attend to what was seen, then to each other, then a feed-forward layer.

    Attended to: in `blocks.….cross` what was seen, in `blocks.….own` words and sentence, each in the order in which they come.

    Args:
        hidden: width of the one token that the pooled words end in.
        flat: what was seen and felt joins them on a path of its own, each token in its place.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], layers: int = 6, heads: int = 4, hidden: int = 256, flat: bool = True
    ):
        super().__init__()
        self.width, self.count, self.flat = hidden, 1, flat
        self.marks, self.norm = TypePositionEmbedding(sizes, counts), nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(CrossBlock(sizes.width, heads) for _ in range(layers))
        self.pool = AttentionPool(sizes.width, heads)
        places = sum(seen_counts(counts).values()) if flat else 0
        self.summary = FusedToken((places + 1) * sizes.width, hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), join(seen(marked))
        x, keys = words.tokens, self.norm(places.tokens)  # (b, l + 1, e), (b, n, e)
        for block in self.blocks:
            x = block(x, words.mask, keys, places.mask)
        pooled = self.pool(TokenGroup(x, words.mask, "text"))
        return self.summary(pooled, *([flat(join(seen(groups)))] if self.flat else []))
