"""Every word looks at the images; what the words have seen is pooled."""

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


@fusions.register("cross_attention")
class CrossAttention(nn.Module):
    """`layers` times, words and sentence attend to all that was seen and felt, then to each other; pooled into one token.

    What was seen and felt joins the pooled words once more on a path of its own, each token in its place: attention says what
    matters, the path keeps its coordinates exact, and an instruction without words still has an effect.

    Attended to: in `look` what was seen, in `talk` words and sentence, each in the order in which they come.

    Args:
        hidden: width of the one token.
        flat: False leaves the path of its own out.
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
        places = sum(seen_counts(counts).values()) if flat else 0
        self.summary = FusedToken((places + 1) * sizes.width, hidden)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), join(seen(marked))
        keys, x = self.norm(places.tokens), words.tokens  # (b, n, e), (b, l + 1, e)
        for look, talk in zip(self.look, self.talk, strict=True):
            x = talk(look(x, places.mask, keys), words.mask)
        pooled = self.pool(TokenGroup(x, words.mask, "text"))
        return self.summary(pooled, *([flat(join(seen(groups)))] if self.flat else []))
