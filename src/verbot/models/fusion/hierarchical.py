"""Fusion of language and observation within each frame, then attention from the latest frame to all frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.models.layers.transformer import (
    AttentionPool,
    Block,
    CrossBlock,
    FusedToken,
    TypePositionEmbedding,
    flat,
    observation_counts,
    observations_by_frame,
    text_groups,
)  # fmt: skip
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("hierarchical")
class HierarchicalFusion(nn.Module):
    """Cross-attention from words to the observations of each frame gives one feature per frame; the latest attends to all.

    With a history of 1 there is no attention over frames. Empty frames are masked.

    Keys of the attentions: observations of one frame in `blocks.….cross` (rows are frames: b·t), words and sentence in
    `blocks.….own`, frames in `back`, oldest first.

    Args:
        layers: blocks within a frame.
        memory: blocks of attention over frames.
        hidden: width of a frame's feature and of the output token.
    """

    def __init__(
        self, sizes: Sizes, counts: Mapping[str, int], layers: int = 2, memory: int = 1, heads: int = 4, hidden: int = 256
    ):
        super().__init__()
        self.width, self.count, self.history = hidden, 1, sizes.history
        self.marks, self.norm = TypePositionEmbedding(sizes, counts), nn.LayerNorm(sizes.width)
        self.blocks = nn.ModuleList(CrossBlock(sizes.width, heads) for _ in range(layers))
        self.pool = AttentionPool(sizes.width, heads)
        places = sum(observation_counts(counts, sizes.history).values())
        self.summary = FusedToken((places + 1) * sizes.width, hidden)
        if sizes.history > 1:
            self.past = nn.LayerNorm(hidden)
            self.back = nn.ModuleList(Block(hidden, heads) for _ in range(memory))

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        features, some = self.by_frame(groups)  # (b, t, hidden), (b, t)
        x = features[:, -1:]
        if self.history > 1:
            keys = self.past(features)
            for block in self.back:
                x = block(x, some, keys)
        return TokenGroup(x, torch.ones_like(some[:, -1:]), "fused")

    def by_frame(self, groups: Sequence[TokenGroup]) -> tuple[Tensor, Tensor]:
        """The feature of every frame (b, t, hidden), and the mask of frames with any valid token (b, t)."""
        marked = self.marks(groups)
        words, places = join(text_groups(marked)), observations_by_frame(marked, self.history)
        x, mask = (v.repeat_interleave(self.history, 0) for v in (words.tokens, words.mask))  # (b·t, l + 1, e)
        keys = self.norm(places.tokens)  # (b·t, n, e)
        for block in self.blocks:
            x = block(x, mask, keys, places.mask)
        fused = self.summary(self.pool(TokenGroup(x, mask, "text")), flat(observations_by_frame(groups, self.history)))
        return fused.tokens.view(-1, self.history, self.width), places.mask.any(1).view(-1, self.history)
