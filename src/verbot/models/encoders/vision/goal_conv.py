"""An encoder of goal images, which compares the goal image with the current one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.encoders.vision.sides import check_sides
from verbot.models.encoders.vision.spatial_softmax import place_reader
from verbot.models.layers.transformer import pixel_grid
from verbot.models.registries import goal_encoders
from verbot.models.tokens import Sizes, TokenGroup


@goal_encoders.register("goal_conv")
class GoalConv(nn.Module):
    """Encodes the first camera's latest frame and the goal image, stacked by channels, to a few tokens that follow the words.

    Each token contains the expected (x, y) of a heatmap and the features there, plus a type embedding that distinguishes goal
    images from words. Octo stacks goal images in the same way (Octo Model Team 2024).

    Args:
        channels: number of channels of the convolutions.
        tokens: number of heatmaps.
    """

    cells: Tensor

    def __init__(self, sizes: Sizes, channels: int = 32, tokens: int = 8):
        super().__init__()
        check_sides("goal_conv", sizes, self.side_multiple({}))
        self.stem = nn.Conv2d(7, channels, 6, 4, padding=1)
        self.convolutions = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        self.heat = nn.Conv2d(channels, tokens, 1)
        self.project = place_reader(channels, sizes.width)
        self.kind = nn.Parameter(torch.randn(tokens, sizes.width) * 0.1)
        self.register_buffer("cells", pixel_grid(sizes.height // 4, sizes.width_px // 4), persistent=False)

    @staticmethod
    def side_multiple(options: Mapping[str, Any], /) -> int:
        return 4

    def forward(self, goal: Tensor, mask: Tensor, now: Tensor, now_mask: Tensor) -> TokenGroup:
        """`goal` (b, 3, h, w) with `mask` (b,), and the current image `now` (b, 3, h, w) with `now_mask` (b,); in [-1, 1]."""
        known = (
            now_mask[:, None, None, None].to(goal.dtype).expand(-1, 1, *goal.shape[-2:])
        )  # distinguishes a missing image from a gray one
        pair = torch.cat([now * known, known, goal], 1)
        x = F.relu(self.stem(pair.contiguous(memory_format=torch.channels_last)))
        for convolution in self.convolutions:
            x = x + F.relu(convolution(x))
        attended = self.heat(x).flatten(2).softmax(-1)  # (b, n, h·w / 16)
        places = x.flatten(2).transpose(1, 2)
        tokens = self.project(torch.cat([attended @ places, attended @ self.cells], -1)) + self.kind
        return TokenGroup(tokens, mask.unsqueeze(1).expand(tokens.shape[:2]), "goal")
