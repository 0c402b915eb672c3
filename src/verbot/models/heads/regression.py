"""A chunk of actions in one step, each component by its kind."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.layers import masked_mean, reader
from verbot.models.parts import heads
from verbot.models.tokens import Batch, Sizes, TokenGroup


@heads.register("regression")
class Regression(nn.Module):
    """Linear from the fused tokens to k actions.

    A gripper is the probability that it is open (binary cross-entropy); a quaternion is brought to unit length, w ≥ 0, and
    compared up to sign; everything else is compared by L1 on normalized values. The loss is the mean over valid steps and
    dimensions.

    Args:
        gripper: weight of a gripper dimension beside the others.
    """

    def __init__(self, sizes: Sizes, width: int, count: int, gripper: float = 1.0):
        super().__init__()
        self.chunk, self.action, self.gripper = sizes.chunk, sizes.action, gripper
        self.sizes = [c.size for c in sizes.action]
        self.pool = reader(width, count)
        self.out = nn.Linear(width, sizes.chunk * sizes.action_size)

    def forward(self, fused: TokenGroup) -> Tensor:
        return self.out(self.pool(fused)).unflatten(-1, (self.chunk, -1))  # (b, k, a), before the components' constraints

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``; zero where the batch has no valid step."""
        assert batch.actions is not None and batch.actions_mask is not None
        actions = batch.actions.masked_fill(~batch.actions_mask.unsqueeze(-1), 0)  # padding may hold anything, NaN too
        pairs = zip(self.forward(fused).split(self.sizes, -1), actions.split(self.sizes, -1), strict=True)
        parts = [self._loss(c.kind, raw, true) for c, (raw, true) in zip(self.action, pairs, strict=True)]
        return {"action": masked_mean(torch.cat(parts, -1), batch.actions_mask)}

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        parts = self.forward(fused).split(self.sizes, -1)
        return torch.cat([_decode(c.kind, raw) for c, raw in zip(self.action, parts, strict=True)], -1)

    def _loss(self, kind: str, raw: Tensor, true: Tensor) -> Tensor:
        if kind == "gripper":
            return self.gripper * F.binary_cross_entropy_with_logits(raw, true.clamp(0, 1), reduction="none")
        if kind == "quaternion":
            unit = F.normalize(raw, dim=-1)
            sign = torch.where((unit * true).sum(-1, keepdim=True) < 0, -1.0, 1.0)  # q and -q are one rotation
            return (unit * sign - true).abs()
        return (raw - true).abs()


def _decode(kind: str, raw: Tensor) -> Tensor:
    if kind == "gripper":
        return raw.sigmoid()
    if kind == "quaternion":
        unit = F.normalize(raw, dim=-1)
        return torch.where(unit[..., :1] < 0, -unit, unit)
    return raw
