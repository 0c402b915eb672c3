"""A transformer over time: each frame's tokens are learned down to a few, and read those of their past."""

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
    seen,
    seen_by_frame,
    seen_counts,
    text_groups,
    until,
)
from verbot.models.registries import fusions
from verbot.models.tokens import Sizes, TokenGroup, join


@fusions.register("temporal")
class TemporalFusion(nn.Module):
    """What was seen in a frame is scaled and shifted by the sentence, and learned down to `learned` tokens; they and what the
    robot felt go through `layers` of self-attention, in which a frame reads the words, itself and its past, never its future. The
    latest frame's tokens are given out.

    A kind of which a frame has no more than `learned` tokens (the state) is left as it is. Sources: RT-1, Brohan et al. 2022;
    TokenLearner, Ryoo et al. 2021; FiLM, Perez et al. 2018.

    Attended to: words and sentence in the order in which they come, then frame by frame, the oldest first, the learned tokens and
    those left as they are.

    Args:
        expansion: of the feed-forward layers.
        hidden: where not 0, the latest frame's tokens end in one of this width, and beside them, on a path of their own, all that
            was seen in it, each token in its place.
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
        frame = seen_counts(counts, sizes.history)
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
        latest = flat(seen_by_frame(groups, self.history)).unflatten(0, (-1, self.history))[:, -1]
        return self.summary(flat(fused), latest)

    def over_time(self, groups: Sequence[TokenGroup]) -> Tensor:
        """The tokens of every frame, which know its past: (b, t, tokens, e)."""
        groups = self.marks(groups)
        (sentence,) = (g for g in groups if g.kind == "sentence")
        scale, shift = self.film(sentence.tokens).chunk(2, -1)  # (b, 1, e)
        steered = [TokenGroup(torch.addcmul(shift, g.tokens, 1 + scale), g.mask, g.kind) for g in seen(groups)]
        frame = self._compress(steered)
        order = torch.arange(self.history, device=scale.device).repeat_interleave(self.tokens)
        words = join(text_groups(groups))
        x = torch.cat([words.tokens, frame.tokens.unflatten(0, (-1, self.history)).flatten(1, 2)], 1)  # (b, l + 1 + t·tokens, e)
        mask = torch.cat([words.mask, frame.mask.unflatten(0, (-1, self.history)).flatten(1, 2)], 1)
        allowed = until(torch.cat([order.new_full((words.tokens.shape[1],), -1), order]), mask)
        for block in self.blocks:
            x = block(x, allowed)
        return self.norm(x[:, -len(order) :]).unflatten(1, (self.history, -1))

    def _compress(self, groups: Sequence[TokenGroup]) -> TokenGroup:
        """The tokens left of every frame (b·t, tokens, e)."""
        kept = []
        if self.many:
            learned = self.learn(seen_by_frame([g for g in groups if g.kind in self.many], self.history))
            kept.append(TokenGroup(learned.tokens + self.places, learned.mask, "learned"))
        if few := [g for g in groups if g.kind not in self.many]:
            kept.append(seen_by_frame(few, self.history))
        tokens = join(kept)
        # The latest frame's are given out, so what a masked one holds must not stay in it.
        return TokenGroup(tokens.tokens.masked_fill(~tokens.mask.unsqueeze(-1), 0), tokens.mask, tokens.kind)
