"""How near its end a policy takes an episode to be."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.tokens import Batch, TokenGroup


class Value(nn.Module):
    """The discounted success that is still to come, γ^(steps left), learned beside the actions from what is fused.

    A demonstration succeeds at its last frame and earns nothing before, so what it is worth at any frame is known, in (0, 1].
    What is learned is the value of acting as the demonstrations do (Sutton and Barto 2018, §3.5).

    Args:
        width, count: of the fused tokens.
        discount: γ.
    """

    def __init__(self, width: int, count: int, discount: float):
        super().__init__()
        self.discount, hidden = discount, max(width, 64)
        self.layers = nn.Sequential(reader(width, count), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def forward(self, fused: TokenGroup) -> Tensor:
        """Of each row, (b,) in (0, 1)."""
        return self._logits(fused).sigmoid()

    def loss(self, fused: TokenGroup, batch: Batch) -> Tensor:
        """The binary cross-entropy with γ^(steps left), a scalar.

        Only over rows that show something of their actions and whose end is a success; zero where there are none.
        """
        assert batch.steps_left is not None and batch.actions_mask is not None
        known = batch.actions_mask.any(1) & (batch.steps_left >= 0)
        target = self.discount ** batch.steps_left.clamp(min=0).float()
        errors = F.binary_cross_entropy_with_logits(self._logits(fused).float(), target, reduction="none")
        return masked_mean(errors.unsqueeze(-1), known)

    def _logits(self, fused: TokenGroup) -> Tensor:
        return self.layers(fused).squeeze(-1)
