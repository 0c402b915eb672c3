"""Octo's fusion: readout tokens attend to task and observation tokens, which do not attend to them."""

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
    observation_counts,
    observation_groups,
    text_groups,
    until,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("readout")
class ReadoutFusion(nn.Module):
    """A transformer with block-wise attention; the output are the `readouts`.

    Words and sentence attend to each other. Observation tokens of a frame attend to them, to their own frame and to earlier
    frames. Each readout attends to all of these and itself; nothing attends to a readout. So readouts for another head can be
    added to a trained network without changing its output. Source: Octo Model Team 2024, §III.

    Order of the tokens: words, sentence, observations, readouts.

    Args:
        expansion: expansion of the feed-forward layers.
        hidden: if not 0, an MLP maps the readouts and the concatenated observation tokens (the flat path) to one token of this
            width.
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
        self.summary = FusedToken((readouts + sum(observation_counts(counts).values())) * sizes.width, hidden) if hidden else None
        self.history = sizes.history
        self.frame = observation_counts(counts, sizes.history)
        self.marks = TypePositionEmbedding(sizes, counts)
        self.readouts = nn.Parameter(torch.randn(readouts, sizes.width) / math.sqrt(sizes.width))
        self.blocks = nn.ModuleList(Block(sizes.width, heads, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        x = self.norm(self.transform(groups)[:, -len(self.readouts) :])  # (b, readouts, e)
        fused = TokenGroup(x, x.new_ones(x.shape[:2], dtype=torch.bool), "fused")
        return fused if self.summary is None else self.summary(flat(fused), flat(join(observation_groups(groups))))

    def transform(self, groups: Sequence[TokenGroup]) -> Tensor:
        """The final states of all tokens (b, n + readouts, e), readouts last."""
        groups = self.marks([*text_groups(groups), *observation_groups(groups)])
        joined = join(groups)
        x = torch.cat([joined.tokens, self.readouts.expand(joined.tokens.shape[0], -1, -1)], 1)
        allowed = self._allowed(groups, joined.mask)
        for block in self.blocks:
            x = block(x, allowed)
        return x

    def _allowed(self, groups: Sequence[TokenGroup], mask: Tensor) -> Tensor:
        """The attention mask (b, n + readouts, n + readouts)."""
        frames = torch.arange(self.history, device=mask.device)
        parts = [
            frames.new_full((g.tokens.shape[1],), -1) if g.kind in TEXT_KINDS else frames.repeat_interleave(self.frame[g.kind])
            for g in groups
        ]
        order = torch.cat([*parts, frames.new_full((len(self.readouts),), self.history)])
        valid = torch.cat([mask, mask.new_ones(mask.shape[0], len(self.readouts))], 1)
        private = order == self.history
        itself = torch.eye(len(order), dtype=torch.bool, device=mask.device)
        return until(order, valid) & (~private | itself)
