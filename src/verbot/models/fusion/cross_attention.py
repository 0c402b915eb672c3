"""Every word looks at the images; what the words have seen is pooled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from verbot.models.layers import AttentionPool, Block
from verbot.models.parts import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("cross_attention")
class CrossAttention(nn.Module):
    """`layers` times, words and sentence attend to vision and state, then to each other; pooled into one token.

    The state joins the pooled token once more on a path of its own, so that a command without words can still be acted on.
    """

    def __init__(self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, heads: int = 4, hidden: int = 256):
        super().__init__()
        self.width, self.count = hidden, 1
        self.look = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.talk = nn.ModuleList(Block(sizes.width, heads) for _ in range(layers))
        self.seen, self.pool = nn.LayerNorm(sizes.width), AttentionPool(sizes.width, heads)
        self.out = nn.Sequential(nn.Linear(2 * sizes.width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        told = join([g for g in groups if g.kind in ("words", "sentence")])
        seen = join([g for g in groups if g.kind not in ("words", "sentence")])
        felt = join([g for g in groups if g.kind == "state"])
        keys, x = self.seen(seen.tokens), told.tokens  # (b, n, e), (b, l + 1, e)
        for look, talk in zip(self.look, self.talk, strict=True):
            x = talk(look(x, seen.mask, keys), told.mask)
        pooled = torch.cat([self.pool(TokenGroup(x, told.mask, "told")), felt.mean()], -1)
        return TokenGroup(self.out(pooled).unsqueeze(1), told.mask.new_ones(len(x), 1), "fused")
