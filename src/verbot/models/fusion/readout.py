"""Learned readout tokens watch a transformer of task and observation tokens, which never see them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.models.layers.transformer import (
    TEXT_KINDS,
    Block,
    FusedToken,
    TypePositionEmbedding,
    flat,
    seen,
    seen_counts,
    text_groups,
    until,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("readout")
class ReadoutFusion(nn.Module):
    """Block by block: words and sentence read each other; what was seen and felt in a frame reads them, itself and earlier
    frames; each of the `readouts` reads all of it and itself; nothing reads a readout. The readouts are given out.

    So readouts can be added to a trained network, for another head, without changing what it computes. Source: Octo Model Team
    2024, §III.

    Attended to: words and sentence, then what was seen, each in the order in which they come, then the readouts.

    Args:
        expansion: of the feed-forward layers.
        hidden: where not 0, the readouts end in one token of this width, and beside them, on a path of their own, the tokens that
            were seen, each in its place.
    """

    def __init__(
        self,
        sizes: Sizes,
        counts: Mapping[str, int],
        readouts: int = 4,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 2,
        hidden: int = 0,
    ):
        super().__init__()
        self.width, self.count = (hidden, 1) if hidden else (sizes.width, readouts)
        self.summary = FusedToken((readouts + sum(seen_counts(counts).values())) * sizes.width, hidden) if hidden else None
        self.history = sizes.history
        self.frame = seen_counts(counts, sizes.history)
        self.marks = TypePositionEmbedding(sizes, counts)
        self.readouts = nn.Parameter(torch.randn(readouts, sizes.width) / math.sqrt(sizes.width))
        self.blocks = nn.ModuleList(Block(sizes.width, heads, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        x = self.norm(self.transform(groups)[:, -len(self.readouts) :])  # (b, readouts, e)
        fused = TokenGroup(x, x.new_ones(x.shape[:2], dtype=torch.bool), "fused")
        return fused if self.summary is None else self.summary(flat(fused), flat(join(seen(groups))))

    def transform(self, groups: Sequence[TokenGroup]) -> Tensor:
        """The last states of all tokens, the readouts' at the end: (b, n + readouts, e)."""
        groups = self.marks([*text_groups(groups), *seen(groups)])
        joined = join(groups)
        x = torch.cat([joined.tokens, self.readouts.expand(len(joined.tokens), -1, -1)], 1)
        allowed = self._allowed(groups, joined.mask)
        for block in self.blocks:
            x = block(x, allowed)
        return x

    def _allowed(self, groups: Sequence[TokenGroup], mask: Tensor) -> Tensor:
        """Who reads whom: (b, n + readouts, n + readouts)."""
        frames = torch.arange(self.history, device=mask.device)
        parts = [
            frames.new_full((g.tokens.shape[1],), -1) if g.kind in TEXT_KINDS else frames.repeat_interleave(self.frame[g.kind])
            for g in groups
        ]
        order = torch.cat([*parts, frames.new_full((len(self.readouts),), self.history)])
        valid = torch.cat([mask, mask.new_ones(len(mask), len(self.readouts))], 1)
        private = order == self.history
        itself = torch.eye(len(order), dtype=torch.bool, device=mask.device)
        return until(order, valid) & (~private | itself)
