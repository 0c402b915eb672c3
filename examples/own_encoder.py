"""A new camera encoder in one file: what turns the images of every view into tokens.

To use it in commands too, install it as a package with this entry point: `verbot train starter --set vision=grid fusion=concat`

    [project.entry-points."verbot.vision_encoders"]
    grid = "own_encoder:Grid"

Run it: python examples/own_encoder.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

import verbot
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup
from verbot.policy.policy import VLAPolicy


@vision_encoders.register("grid")
class Grid(nn.Module):
    """One token for each cell of a coarse grid over each view, scaled by the instruction.

    Args:
        cells: on a side of the grid.
    """

    def __init__(self, sizes: Sizes, cells: int = 4):
        super().__init__()
        self.counts = {"patches": sizes.views * cells * cells}  # tokens of one frame
        self.reduce = nn.Sequential(nn.Conv2d(3, sizes.width, 5, 2, padding=2), nn.ReLU(), nn.AdaptiveAvgPool2d(cells))
        self.position = nn.Parameter(0.02 * torch.randn(self.counts["patches"], sizes.width))
        self.scale = nn.Linear(sizes.width, sizes.width)

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        """Images (b, v, 3, h, w) from -1 to 1; `mask` (b, v) is False for missing cameras; `sentence` (b, e)."""
        rows, views = mask.shape
        tokens = self.reduce(images.flatten(0, 1)).flatten(2).mT.reshape(rows, len(self.position), -1)  # (b, v·c·c, e)
        tokens = tokens * (1 + self.scale(sentence)).unsqueeze(1) + self.position
        return [TokenGroup(tokens, mask.repeat_interleave(len(self.position) // views, 1), "patches")]


def main(folder: Path, steps: int = 10) -> VLAPolicy:
    """Train the tiny recipe with this encoder and load what was saved."""
    parts = {"vision": {"name": "grid", "options": {"cells": 2}}, "fusion": "concat"}
    result = verbot.train("tiny", out=folder, network=parts, steps=steps, progress=False)
    policy = VLAPolicy.load(result.policy)
    print(f"{type(policy.network.backbone.vision).__name__} encoder, trained for {result.steps} steps")
    return policy


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/own_encoder"))
