"""Bidirectional cross-attention (co-attention) between words and observations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from verbot.models.layers.transformer import (
    AttentionPool,
    Block,
    FusedToken,
    TypePositionEmbedding,
    flat,
    observation_counts,
    observation_groups,
    text_groups,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("bidirectional")
class Bidirectional(nn.Module):
    """In each of `layers`, words attend to observations and observations to words; both are then pooled and joined.

    Source: co-attention, Lu et al. 2019.

    Keys of the attentions: observations in `look`, words and sentence in `listen`.

    Args:
        hidden: width of the output token.
        flat: add the flat path: the concatenated observation tokens join the pooled ones.
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
        places = sum(observation_counts(counts).values()) if flat else 0
        self.summary = FusedToken((places + 2) * sizes.width, hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), join(observation_groups(marked))
        x, y = words.tokens, places.tokens  # (b, l + 1, e), (b, n, e)
        for i, (look, listen) in enumerate(zip(self.look, self.listen, strict=True)):
            text, observed = self.norms[2 * i](x), self.norms[2 * i + 1](y)
            x, y = look(x, places.mask, observed), listen(y, words.mask, text)
        words, places = TokenGroup(x, words.mask, "text"), TokenGroup(y, places.mask, "seen")
        return self.summary(self.text(words), self.seen(places), *([flat(join(observation_groups(groups)))] if self.flat else []))
