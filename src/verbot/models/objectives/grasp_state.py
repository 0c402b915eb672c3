"""How the hand will take hold of what it is told to take: learned from where demonstrations closed it."""

from __future__ import annotations

from torch import Tensor, nn

from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.tokens import TokenGroup


class Grasp(nn.Module):
    """The state in which the hand takes hold (position, rotation, opening), foretold from what is fused.

    Its labels need no simulator: the state at the frame at which a demonstration closed the hand on something
    (`verbot.data.samples.labels.grasps`), for every frame before it.

    Args:
        width, count: of the fused tokens.
        state: s, the dimensions of the state.
    """

    def __init__(self, width: int, count: int, state: int):
        super().__init__()
        hidden = max(width, 64)
        self.layers = nn.Sequential(reader(width, count), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, state))

    def forward(self, fused: TokenGroup) -> Tensor:
        """Of each row a normalized state (b, s)."""
        return self.layers(fused)

    def loss(self, fused: TokenGroup, true: Tensor, mask: Tensor) -> Tensor:
        """The mean L1 error of normalized states (b, s) over the rows of `mask` (b,); zero where there are none."""
        return masked_mean((self(fused) - true.masked_fill(~mask.unsqueeze(-1), 0)).abs(), mask)
