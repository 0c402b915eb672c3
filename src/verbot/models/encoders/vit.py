"""A small vision transformer, whose patches language can also point at."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers import Block, pixel_grid
from verbot.models.parts import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup


@vision_encoders.register("vit")
class ViT(nn.Module):
    """Patches and a class token of every view, and one keypoint token per heatmap.

    Each view goes through the same transformer with an embedding of its own. The sentence asks, each patch answers: their
    products are the heatmaps, whose softmax gives an expected (x, y) and the features there. Source: Dosovitskiy et al. 2021.

    Args:
        patch: side in pixels; the image sides must be multiples of it.
        dim: width inside the transformer; None takes the network's. Tokens leave with the network's.
        depth, heads: of the transformer.
        heatmaps: per view; the first three are those that the keypoint loss teaches.
        patches: whether the patch and class tokens are given out beside the keypoint tokens.
    """

    def __init__(
        self,
        sizes: Sizes,
        patch: int = 8,
        dim: int | None = None,
        depth: int = 4,
        heads: int = 4,
        heatmaps: int = 16,
        patches: bool = True,
    ):
        super().__init__()
        if sizes.height % patch or sizes.width_px % patch:
            raise ConfigError(f"patches of {patch} pixels do not divide images of {sizes.height}×{sizes.width_px}")
        dim = dim or sizes.width
        self.views, self.heatmaps, self.patches, self.dim = sizes.views, heatmaps, patches, dim
        self.grid = (sizes.height // patch, sizes.width_px // patch)
        count = self.grid[0] * self.grid[1]
        self.counts = {"keypoints": sizes.views * heatmaps} | ({"patches": sizes.views * (count + 1)} if patches else {})
        self.embed = nn.Conv2d(3, dim, patch, patch)
        self.first = nn.Parameter(torch.randn(dim) * 0.02)
        self.places = nn.Parameter(torch.randn(sizes.views, count + 1, dim) * 0.1)
        self.blocks = nn.ModuleList(Block(dim, heads, expansion=4) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.ask = nn.Linear(sizes.width, sizes.views * heatmaps * dim)
        self.seen = nn.Linear(dim + 2, sizes.width)
        self.slots = nn.Parameter(torch.randn(sizes.views * heatmaps, sizes.width) * 0.02)
        if patches:
            self.out = nn.Linear(dim, sizes.width)
        self.register_buffer("cells", pixel_grid(*self.grid), persistent=False)

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        x = self.transform(images)  # (b, v, n + 1, d)
        answers = x[:, :, 1:]
        questions = self.ask(sentence).unflatten(-1, (self.views, self.heatmaps, -1))
        logits = questions @ answers.transpose(-1, -2) / math.sqrt(self.dim)  # (b, v, p, n)
        attended = logits.softmax(-1)
        points = attended @ self.cells
        tokens = self.seen(torch.cat([attended @ answers, points], -1)).flatten(1, 2) + self.slots
        valid = mask.repeat_interleave(self.heatmaps, 1)
        heatmaps = logits.unflatten(-1, self.grid).flatten(1, 2)
        groups = [TokenGroup(tokens, valid, "keypoints", points.flatten(1, 2), heatmaps)]
        if self.patches:
            groups.append(TokenGroup(self.out(x).flatten(1, 2), mask.repeat_interleave(x.shape[2], 1), "patches"))
        return groups

    def transform(self, images: Tensor) -> Tensor:
        """Images (b, v, 3, h, w) to the class token and patch tokens of each view, (b, v, n + 1, d)."""
        patches = self.embed(images.flatten(0, 1)).flatten(2).transpose(1, 2)  # (b·v, n, d)
        x = torch.cat([self.first.expand(len(patches), 1, -1), patches], 1)
        x = (x.unflatten(0, (-1, self.views)) + self.places).flatten(0, 1)
        everything = x.new_ones(x.shape[:2], dtype=torch.bool)
        for block in self.blocks:
            x = block(x, everything)
        return self.norm(x).unflatten(0, (-1, self.views))
