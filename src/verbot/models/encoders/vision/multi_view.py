"""One encoder for all cameras, with attention across views."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.models.encoders.vision.sides import check_sides
from verbot.models.encoders.vision.spatial_softmax import Pointer, check_heatmaps
from verbot.models.layers.transformer import Block
from verbot.models.registries import vision_encoders
from verbot.models.tokens import Sizes, TokenGroup


@vision_encoders.register("multi_view")
class MultiView(nn.Module):
    """One token per heatmap and view, with the expected position and the features there.

    All views share one convolutional network with features at strides 4 and 8. The coarse features of all views, with view
    embeddings, attend to each other (missing cameras are masked) and are added to the fine features. Heatmaps are inner products
    of the fine features with queries of the sentence. There are no position embeddings, because they led to memorized scenes.
    Only the view embeddings are specific to a camera, so every camera trains the shared weights.

    Args:
        channels: number of channels of the finer level; the coarser one has twice as many, which `heads` must divide.
        features: dimension of the fine features.
        layers, heads: the numbers of layers and heads of the transformer across views.
        heatmaps: per view; the first three are supervised by the keypoint loss.
        patches: return the coarse features as tokens too.
    """

    def __init__(
        self,
        sizes: Sizes,
        channels: int = 16,
        features: int = 32,
        layers: int = 1,
        heads: int = 4,
        heatmaps: int = 16,
        patches: bool = False,
    ):
        super().__init__()
        check_sides("multi_view", sizes, self.side_multiple({}))
        check_heatmaps("multi_view", heatmaps)
        self.patches = patches
        fine, self.coarse = (sizes.height // 4, sizes.width_px // 4), (sizes.height // 8, sizes.width_px // 8)
        count = self.coarse[0] * self.coarse[1]
        self.counts = {"keypoints": sizes.views * heatmaps} | ({"patches": sizes.views * count} if patches else {})
        width = 2 * channels
        self.stem = nn.Conv2d(3, channels, 6, 4, padding=1)
        self.near = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.down = nn.Conv2d(channels, width, 3, 2, padding=1)
        self.view = nn.Parameter(torch.randn(sizes.views, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.across, self.up = nn.Conv2d(channels, features, 1), nn.Linear(width, features)
        self.point = Pointer(sizes.width, features, fine, heatmaps)
        self.tell = nn.Linear(width, sizes.width)
        if patches:
            self.out = nn.Linear(width, sizes.width)

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        return 8

    def forward(self, images: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        fine, coarse = self._encode(images, mask)
        return self._groups(fine, coarse, mask, sentence)

    def encode_with_queries(
        self, images: Tensor, mask: Tensor, sentence: Tensor, queries: Tensor, rows: Tensor
    ) -> tuple[list[TokenGroup], TokenGroup]:
        """As `forward`, and the supervised keypoint tokens for queries (q, e) about images `rows` (q,), each encoded once."""
        fine, coarse = self._encode(images, mask)
        return self._groups(fine, coarse, mask, sentence), self._point(fine[rows], mask[rows], queries, len(POINTS))

    def _encode(self, images: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """The fine features (b, v, h·w / 16, f) and the coarse ones (b, v, h·w / 64, 2c) of each view."""
        views = mask.shape[1]
        # Channels last in memory makes convolutions on CPUs a quarter faster.
        near = F.relu(self.stem(images.flatten(0, 1).contiguous(memory_format=torch.channels_last)))
        near = F.relu(near + self.near(near))
        coarse = F.relu(self.down(near)).flatten(2).transpose(1, 2).unflatten(0, (-1, views))
        coarse = (coarse + self.view[:, None]).flatten(1, 2)  # (b, v·n, 2c)
        there = mask.repeat_interleave(coarse.shape[1] // views, 1)
        for block in self.blocks:
            coarse = block(coarse, there)
        coarse = self.norm(coarse).unflatten(1, (views, -1))
        up = self.up(coarse).flatten(0, 1).transpose(1, 2).unflatten(-1, self.coarse)  # (b·v, f, h / 8, w / 8)
        fine = F.relu(self.across(near) + F.interpolate(up, scale_factor=2))
        return fine.flatten(2).transpose(1, 2).unflatten(0, (-1, views)), coarse

    def _groups(self, fine: Tensor, coarse: Tensor, mask: Tensor, sentence: Tensor) -> list[TokenGroup]:
        found = [self._point(fine, mask, sentence, None)]
        if self.patches:
            found.append(TokenGroup(self.out(coarse).flatten(1, 2), mask.repeat_interleave(coarse.shape[2], 1), "patches"))
        return found

    def _point(self, fine: Tensor, mask: Tensor, sentence: Tensor, count: int | None) -> TokenGroup:
        group = self.point(fine, mask, sentence, count)
        views = mask.shape[1]
        tokens = group.tokens.unflatten(1, (views, -1)) + self.tell(self.view).unsqueeze(1)
        return TokenGroup(tokens.flatten(1, 2), group.mask, group.kind, group.points, group.heatmaps)
