"""A new backbone in one file: what turns images, an instruction and a state into the features that the head acts on.

To use it in commands too, install it as a package with this entry point: `verbot train starter --set backbone=bytes`

    [project.entry-points."verbot.backbones"]
    bytes = "own_backbone:Bytes"

Run it: python examples/own_backbone.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

import verbot
from verbot.models.config import NetworkConfig
from verbot.models.features import Backbone, Features, Queries
from verbot.models.layers.transformer import Block, centered
from verbot.models.registries import backbones
from verbot.models.tokens import Batch, Sizes, TextBatch, TokenGroup
from verbot.policy.policy import VLAPolicy


@backbones.register("bytes")
class Bytes(Backbone):
    """Patches of the images, bytes of the instruction and the state in one sequence, read by a transformer.

    Args:
        patch: pixels on a side.
        longest: bytes of an instruction that are read.
    """

    def __init__(self, config: NetworkConfig, sizes: Sizes, patch: int = 8, layers: int = 2, longest: int = 64):
        super().__init__()
        self.width, self.count, self.longest = config.width, 1, longest
        places = sizes.views * (sizes.height // patch) * (sizes.width_px // patch)
        self.patches = nn.Conv2d(3, self.width, patch, patch)
        self.letters, self.state = nn.Embedding(256, self.width), nn.Linear(sizes.state, self.width)
        self.positions = nn.Parameter(0.02 * torch.randn(2 + places + longest, self.width))
        self.blocks = nn.ModuleList(Block(self.width, heads=4) for _ in range(layers))

    def prepare(self, texts: Sequence[str]) -> TextBatch:
        """The bytes of raw instructions."""
        rows = [list(text.encode()[: self.longest]) for text in texts]
        values = torch.tensor([row + [0] * (self.longest - len(row)) for row in rows])
        return TextBatch(values, torch.tensor([[i < len(row) for i in range(self.longest)] for row in rows]))

    def forward(self, batch: Batch, queries: Mapping[str, Queries]) -> Features:
        """One fused token a row (b, 1, e), from the latest frame."""
        text, rows = batch.text.by_row(), len(batch.state)
        seen = self.patches(centered(batch.images[:, -1]).flatten(0, 1)).flatten(2).mT  # (b·v, n, e)
        seen_mask = batch.images_mask[:, -1].flatten().unsqueeze(1).expand(seen.shape[:2])
        state = self.state(batch.state[:, -1:])  # (b, 1, e)
        first, always = state.new_zeros(rows, 1, self.width), batch.state_mask.new_ones(rows, 1)
        tokens = torch.cat([first, state, seen.reshape(rows, -1, self.width), self.letters(text.values)], 1) + self.positions
        mask = torch.cat([always, batch.state_mask[:, -1:], seen_mask.reshape(rows, -1), text.mask], 1)
        for block in self.blocks:
            tokens = block(tokens, mask)
        return Features(batch, TokenGroup(tokens[:, :1], mask[:, :1], "fused"))


def main(folder: Path, steps: int = 10) -> VLAPolicy:
    """Train the tiny recipe with this backbone and load what was saved."""
    result = verbot.train("tiny", out=folder, steps=steps, progress=False, backbone="bytes")
    policy = VLAPolicy.load(result.policy)
    print(f"{type(policy.network.backbone).__name__} backbone, trained for {result.steps} steps")
    return policy


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/own_backbone"))
