"""Direct regression of action chunks, by kind of component."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.models.action_space import ActionReadout, targets
from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.registries import heads
from verbot.models.stochastic import ActionDistributionHead
from verbot.models.tokens import Batch, HeadInput, TokenGroup


@heads.register("regression")
class Regression(nn.Module):
    """Linear from the fused tokens to k actions.

    `verbot.models.action_space.ActionReadout` defines decoding and error of each kind of component. The loss is the mean
    over valid steps and dimensions.

    Args:
        gripper: weight of a gripper dimension relative to the others.
        rotation: ``"quaternion"`` outputs the four numbers of a quaternion, ``"six"`` the six of Zhou et al. 2019.
    """

    def __init__(self, inputs: HeadInput, gripper: float = 1.0, rotation: str = "quaternion"):
        super().__init__()
        sizes = inputs.sizes
        self.chunk, self.readout = sizes.chunk, ActionReadout(sizes.action, rotation, gripper)
        self.pool = reader(inputs.width, inputs.count)
        self.out = nn.Linear(inputs.width, sizes.chunk * self.readout.size)

    def forward(self, fused: TokenGroup) -> Tensor:
        return self.out(self.pool(fused)).unflatten(-1, (self.chunk, -1))  # (b, k, raw numbers)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``; zero if the batch has no valid step."""
        actions, mask = targets(batch)
        return {"action": masked_mean(self.readout.errors(self.forward(fused), actions), mask)}

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self.readout.decode(self.forward(fused))

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        """Actions (b, k, a) drawn around the prediction by `ActionDistributionHead` with its initial standard deviation."""
        raw = self.forward(fused)
        draws = ActionDistributionHead(self.readout).to(raw.device)(raw.flatten(0, 1)).sample(generator)
        return draws.unflatten(0, raw.shape[:2])
