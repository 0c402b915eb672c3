"""A new action head in one file: register it, and any network can be built with it by name.

To use it in commands too, install it as a package with this entry point:

    [project.entry-points."verbot.heads"]
    bounded = "own_head:Bounded"

Run it: python examples/own_head.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import verbot
from verbot.models.registries import heads
from verbot.models.tokens import Batch, HeadInput, TokenGroup
from verbot.policy.policy import VLAPolicy


@heads.register("bounded")
class Bounded(nn.Module):
    """Actions through a tanh, at most `reach` standard deviations from the mean; Huber loss."""

    def __init__(self, inputs: HeadInput, reach: float = 4.0):
        super().__init__()
        self.chunk, self.reach = inputs.sizes.chunk, reach
        self.out = nn.Linear(inputs.width, inputs.sizes.chunk * inputs.sizes.action_size)

    def forward(self, fused: TokenGroup) -> Tensor:
        return self.reach * torch.tanh(self.out(fused.mean())).unflatten(-1, (self.chunk, -1))  # (b, k, a)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        assert batch.actions is not None and batch.actions_mask is not None  # None in prediction alone
        error = nn.functional.huber_loss(self(fused), batch.actions, reduction="none").mean(-1)
        valid = batch.actions_mask.to(error.dtype)
        return {"action": (error * valid).sum() / valid.sum().clamp(min=1)}

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        return self(fused)


def main(folder: Path, steps: int = 10) -> VLAPolicy:
    """Train the tiny recipe with this head and load what was saved."""
    network = {"head": {"name": "bounded", "options": {"reach": 3.0}}}
    result = verbot.train("tiny", out=folder, network=network, steps=steps, progress=False)
    policy = VLAPolicy.load(result.policy)
    print(f"{type(policy.network.head).__name__} head, trained for {result.steps} steps")
    return policy


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/own_head"))
