"""Words look at what was seen, and what was seen listens to the words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from verbot.models.layers.transformer import (
    AttentionPool,
    Block,
    FusedToken,
    TypePositionEmbedding,
    flat,
    seen,
    seen_counts,
    text_groups,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("bidirectional")
class Bidirectional(nn.Module):
    """`layers` times, each side attends to the other as it was before; both are pooled, and joined.

    Source: co-attention, Lu et al. 2019.

    Attended to: in `look` what was seen, in `listen` words and sentence, each in the order in which they come.

    Args:
        hidden: width of the one token.
        flat: what was seen and felt joins them on a path of its own, each token in its place.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, heads: int = 4, hidden: int = 256, flat: bool = True
    ):
        super().__init__()
        self.width, self.count, self.flat = hidden, 1, flat
        self.marks = TypePositionEmbedding(sizes, counts)
        self.look = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.listen = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(sizes.width) for _ in range(2 * layers))
        self.text, self.seen = AttentionPool(sizes.width, heads), AttentionPool(sizes.width, heads)
        places = sum(seen_counts(counts).values()) if flat else 0
        self.summary = FusedToken((places + 2) * sizes.width, hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), join(seen(marked))
        x, y = words.tokens, places.tokens  # (b, l + 1, e), (b, n, e)
        for i, (look, listen) in enumerate(zip(self.look, self.listen, strict=True)):
            heard, shown = self.norms[2 * i](x), self.norms[2 * i + 1](y)
            x, y = look(x, places.mask, shown), listen(y, words.mask, heard)
        words, places = TokenGroup(x, words.mask, "text"), TokenGroup(y, places.mask, "seen")
        return self.summary(self.text(words), self.seen(places), *([flat(join(seen(groups)))] if self.flat else []))
