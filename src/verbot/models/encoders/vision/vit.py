"""A small vision transformer with language-conditioned heatmaps over its patches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.encoders.vision.spatial_softmax import check_heatmaps, place_reader, spatial_softmax
from verbot.models.layers.transformer import Block, pixel_grid
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup


@vision_encoders.register("vit")
class ViT(nn.Module):
    """Patches and a class token of every view, and one keypoint token per heatmap.

    All views use the same transformer, with position embeddings of their own. Heatmaps are inner products of patches with queries
    of the sentence; their spatial softmax gives the expected (x, y) and the features there. Source: Dosovitskiy et al. 2021.

    Args:
        patch: side in pixels; the image sides must be multiples of it.
        dim: width of the transformer; None uses the network's. Output tokens have the width of the network.
        depth, heads: the numbers of layers and heads of the transformer.
        heatmaps: per view; the first three are supervised by the keypoint loss.
        patches: return the patch and class tokens too.
        stem: channels of 3×3 convolutions with stride 2 before the patches (Xiao et al. 2021).
    """

    cells: Tensor

    def __init__(
        self,
        sizes: Sizes,
        patch: int = 8,
        dim: int | None = None,
        depth: int = 4,
        heads: int = 4,
        heatmaps: int = 16,
        patches: bool = True,
        stem: Sequence[int] = (),
    ):
        super().__init__()
        if sizes.height % patch or sizes.width_px % patch:
            raise ConfigError(
                f"patches of {patch} pixels do not divide images of {sizes.height}×{sizes.width_px}: set the network's "
                f"image_size to multiples of {patch}"
            )
        if patch % 2 ** len(stem):
            raise ConfigError(f"{len(stem)} convolutions that halve the image do not divide patches of {patch} pixels")
        check_heatmaps("vit", heatmaps)
        dim = dim or sizes.width
        self.views, self.heatmaps, self.patches, self.dim = sizes.views, heatmaps, patches, dim
        self.grid = (sizes.height // patch, sizes.width_px // patch)
        count = self.grid[0] * self.grid[1]
        self.counts = {"keypoints": sizes.views * heatmaps} | ({"patches": sizes.views * (count + 1)} if patches else {})
        self.stem = nn.Sequential(*(_halve(a, b) for a, b in itertools.pairwise((3, *stem))))
        side = patch // 2 ** len(stem)
        self.embed = nn.Conv2d((3, *stem)[-1], dim, side, side)
        self.first = nn.Parameter(torch.randn(dim) * 0.02)
        self.places = nn.Parameter(torch.randn(sizes.views, count + 1, dim) * 0.1)
        self.blocks = nn.ModuleList(Block(dim, heads, expansion=4) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)
        self.ask = nn.Linear(sizes.width, sizes.views * heatmaps * dim)
        self.seen = place_reader(dim, sizes.width)
        self.slots = nn.Parameter(torch.randn(sizes.views * heatmaps, sizes.width) * 0.02)
        if patches:
            self.out = nn.Linear(dim, sizes.width)
        self.register_buffer("cells", pixel_grid(*self.grid), persistent=False)

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        return int(options.get("patch", 8))

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        return self._groups(self.transform(images), mask, sentence)

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the supervised keypoint tokens for queries (q, e) about images `rows` (q,), each encoded once."""
        x = self.transform(images)
        return self._groups(x, mask, sentence), self._point(x[rows], mask[rows], queries, len(POINTS))

    def transform(self, images: Tensor) -> Tensor:
        """Images (b, v, 3, h, w) to the class token and patch tokens of each view, (b, v, n + 1, d)."""
        patches = self.embed(self.stem(images.flatten(0, 1))).flatten(2).transpose(1, 2)  # (b·v, n, d)
        x = torch.cat([self.first.expand(len(patches), 1, -1), patches], 1)
        x = (x.unflatten(0, (-1, self.views)) + self.places).flatten(0, 1)
        everything = x.new_ones(x.shape[:2], dtype=torch.bool)
        for block in self.blocks:
            x = block(x, everything)
        return self.norm(x).unflatten(0, (-1, self.views))

    def _groups(self, x: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        """The token groups, from the output of `transform`, (b, v, n + 1, d)."""
        groups = [self._point(x, mask, sentence, self.heatmaps)]
        if self.patches:
            groups.append(TokenGroup(self.out(x).flatten(1, 2), mask.repeat_interleave(x.shape[2], 1), "patches"))
        return groups

    def _point(self, x: Tensor, mask: Tensor, sentence: Tensor, count: int) -> TokenGroup:
        """Keypoint tokens of the first `count` heatmaps of each view."""
        patches = x[:, :, 1:]
        queries = self.ask(sentence).unflatten(-1, (self.views, self.heatmaps, -1))[:, :, :count]
        logits = queries @ patches.transpose(-1, -2) / math.sqrt(self.dim)  # (b, v, p, n)
        read = spatial_softmax(logits, patches, self.cells).flatten(1, 2)  # (b, v·p, d + 2)
        tokens = self.seen(read) + self.slots.unflatten(0, (self.views, -1))[:, :count].flatten(0, 1)
        heatmaps = logits.unflatten(-1, self.grid).flatten(1, 2)
        return TokenGroup(tokens, mask.repeat_interleave(count, 1), "keypoints", read[..., -2:], heatmaps)


def _halve(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, padding=1), nn.GroupNorm(math.gcd(outputs, 32), outputs), nn.ReLU())
