"""RT-1's fusion: a causal transformer over frames, each compressed to a few tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from verbot.models.layers.transformer import (
    Block,
    FusedToken,
    TokenLearner,
    TypePositionEmbedding,
    flat,
    observation_counts,
    observation_groups,
    observations_by_frame,
    text_groups,
    until,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("temporal")
class TemporalFusion(nn.Module):
    """FiLM, TokenLearner and causal self-attention over frames; the output are the tokens of the latest frame.

    The sentence scales and shifts the observation tokens of each frame, and TokenLearner compresses them to `learned` tokens.
    Kinds with at most `learned` tokens per frame (the state) are not compressed. In `layers` of self-attention a frame attends to
    the words, itself and earlier frames. Sources: RT-1, Brohan et al. 2022; TokenLearner, Ryoo et al. 2021; FiLM, Perez et al.
    2018.

    Order of the tokens: words and sentence, then for each frame, oldest first, the learned and the uncompressed tokens.

    Args:
        expansion: expansion of the feed-forward layers.
        hidden: if not 0, an MLP maps the latest frame's tokens and its concatenated observation tokens (the flat path) to one
            token of this width.
    """

    def __init__(
        self,
        sizes: Sizes,
        counts: Mapping[str, int],
        learned: int = 8,
        layers: int = 4,
        heads: int = 4,
        expansion: int = 2,
        hidden: int = 0,
    ):
        super().__init__()
        frame = observation_counts(counts, sizes.history)
        self.history, self.many = sizes.history, [kind for kind, n in frame.items() if n > learned]
        few = sum(n for kind, n in frame.items() if kind not in self.many)
        self.tokens = few + (learned if self.many else 0)  # of a frame
        self.width, self.count = (hidden, 1) if hidden else (sizes.width, self.tokens)
        self.summary = FusedToken((self.tokens + sum(frame.values())) * sizes.width, hidden) if hidden else None
        self.marks, self.film = TypePositionEmbedding(sizes, counts), nn.Linear(sizes.width, 2 * sizes.width)
        if self.many:
            self.learn = TokenLearner(sizes.width, learned)
            self.places = nn.Parameter(torch.randn(learned, sizes.width) * 0.02)
        self.blocks = nn.ModuleList(Block(sizes.width, heads, expansion) for _ in range(layers))
        self.norm = nn.LayerNorm(sizes.width)

    def forward(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        x = self.over_time(groups)[:, -1]  # (b, tokens, e)
        fused = TokenGroup(x, x.new_ones(x.shape[:2], dtype=torch.bool), "fused")
        if self.summary is None:
            return fused
        latest = flat(observations_by_frame(groups, self.history)).unflatten(0, (-1, self.history))[:, -1]
        return self.summary(flat(fused), latest)

    def over_time(self, groups: Sequence[TokenGroup]) -> Tensor:
        """The tokens of every frame after causal attention: (b, t, tokens, e)."""
        groups = self.marks(groups)
        (sentence,) = (g for g in groups if g.kind == "sentence")
        scale, shift = self.film(sentence.tokens).chunk(2, -1)  # (b, 1, e)
        modulated = [TokenGroup(torch.addcmul(shift, g.tokens, 1 + scale), g.mask, g.kind) for g in observation_groups(groups)]
        frame = self._compress(modulated)
        order = torch.arange(self.history, device=scale.device).repeat_interleave(self.tokens)
        words = join(text_groups(groups))
        x = torch.cat([words.tokens, frame.tokens.unflatten(0, (-1, self.history)).flatten(1, 2)], 1)  # (b, l + 1 + t·tokens, e)
        mask = torch.cat([words.mask, frame.mask.unflatten(0, (-1, self.history)).flatten(1, 2)], 1)
        allowed = until(torch.cat([order.new_full((words.tokens.shape[1],), -1), order]), mask)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x[:, -len(order) :]).unflatten(1, (self.history, -1))

    def _compress(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        """The compressed tokens of every frame (b·t, tokens, e)."""
        kept = []
        if self.many:
            learned = self.learn(observations_by_frame([g for g in groups if g.kind in self.many], self.history))
            kept.append(TokenGroup(learned.tokens + self.places, learned.mask, "learned"))
        if few := [g for g in groups if g.kind not in self.many]:
            kept.append(observations_by_frame(few, self.history))
        tokens = join(kept)
        # The latest frame's tokens are the output, which must not contain values of masked tokens.
        return TokenGroup(tokens.tokens.masked_fill(~tokens.mask.unsqueeze(-1), 0), tokens.mask, tokens.kind)
