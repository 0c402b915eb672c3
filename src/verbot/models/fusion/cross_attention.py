"""Cross-attention from words to observations."""

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


@fusions.register("cross_attention")
class CrossAttention(nn.Module):
    """In each of `layers`, words and sentence attend to observations, then to each other; they are pooled into one token.

    The flat path adds the concatenated observation tokens to the pooled words. Attention selects, the flat path keeps exact
    coordinates, and the policy also works with an empty instruction.

    Keys of the attentions: observations in `look`, words and sentence in `talk`.

    Args:
        hidden: width of the output token.
        flat: whether there is a flat path.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, heads: int = 4, hidden: int = 256, flat: bool = True
    ):
        super().__init__()
        self.width, self.count, self.flat = hidden, 1, flat
        self.marks = TypePositionEmbedding(sizes, counts)
        self.look = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.talk = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.norm, self.pool = nn.LayerNorm(sizes.width), AttentionPool(sizes.width, heads)
        places = sum(observation_counts(counts).values()) if flat else 0
        self.summary = FusedToken((places + 1) * sizes.width, hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), join(observation_groups(marked))
        keys, x = self.norm(places.tokens), words.tokens  # (b, n, e), (b, l + 1, e)
        for look, talk in zip(self.look, self.talk, strict=True):
            x = talk(look(x, places.mask, keys), words.mask)
        pooled = self.pool(TokenGroup(x, words.mask, "text"))
        return self.summary(pooled, *([flat(join(observation_groups(groups)))] if self.flat else []))
