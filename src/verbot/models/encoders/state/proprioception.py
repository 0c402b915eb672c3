"""The encoder of the robot's state."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.models.registries import state_encoders
from verbot.models.tokens import Sizes, TokenGroup

LOUD = 6.0  # initial scale: with torch's default, the hand's position would have a twentieth of the effect of keypoints


@state_encoders.register("proprioception")
class Proprioception(nn.Module):
    """An MLP from the normalized state (b, s) to one token; a missing state gives a masked token.

    Values are clipped to ±`limit` standard deviations, so that a sensor far outside its training range does not dominate.
    """

    def __init__(self, sizes: Sizes, hidden: int = 64, limit: float = 10.0):
        super().__init__()
        self.counts, self.limit = {"state": 1}, limit
        last = nn.Linear(hidden, sizes.width)
        with torch.no_grad():
            last.weight.mul_(LOUD)
        self.layers = nn.Sequential(nn.Linear(sizes.state_input, hidden), nn.GELU(), last)

    def forward(self, state: Tensor, mask: Tensor) -> TokenGroup:
        state = state.clamp(-self.limit, self.limit).masked_fill(~mask.unsqueeze(-1), 0)
        return TokenGroup(self.layers(state).unsqueeze(1), mask.unsqueeze(1), "state")
