"""Telling where things are from what is remembered, and a second look at those places."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.models.layers.transformer import masked_mean, pixel_grid, reader
from verbot.models.objectives.keypoints import POINTS, heatmap_loss, supervised
from verbot.models.tokens import TokenGroup

SPREAD = 0.3  # of the second look as it begins, where an image is 2 wide


class Recall(nn.Module):
    """The keypoints told from the fused features, then sought near there: memory says where about, the picture where exactly.

    What the vision encoder found, its heatmaps of the latest frame, is multiplied by a normal distribution around the place that
    is told, of a width that is learned. So of things that look alike the remembered one is left. Both places join what is fused.

    Args:
        width, count: of what is fused.
        views: of the robot.
        history: frames that are seen at once.
    """

    def __init__(self, width: int, count: int, views: int, history: int = 1):
        super().__init__()
        self.views, self.history = views, history
        places = 2 * views * POINTS
        self.pool, self.tell = reader(width, count), nn.Linear(width, places)
        self.spread = nn.Parameter(torch.full((POINTS, 1), SPREAD).log())
        first, last = nn.Linear(width + 2 * places, width), nn.Linear(width, width)
        nn.init.normal_(first.weight[:, width:], std=0.3)  # places count from the first step on
        nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
        self.join = nn.Sequential(first, nn.GELU(), last)

    def forward(self, fused: TokenGroup, keypoints: TokenGroup) -> tuple[TokenGroup, Tensor, Tensor]:
        """What is fused, with the places; the places told (b, v, 3, 2); and the logits of those found (b, v, 3, h, w)."""
        now = self.pool(fused)
        told = self.tell(now).unflatten(-1, (self.views, POINTS, 2))
        logits = self._look(told, keypoints)
        found = _expected(logits)
        change = self.join(torch.cat([now, told.flatten(1), found.flatten(1)], -1)).unsqueeze(1)
        return TokenGroup(fused.tokens + change, fused.mask, fused.kind), told, logits

    def loss(self, told: Tensor, logits: Tensor, true: Tensor, mask: Tensor) -> Tensor:
        """As the keypoint loss (see `verbot.models.objectives.keypoints`), of the places told and found."""
        true = true.masked_fill(~mask.unsqueeze(-1), 0)  # an unknown place may hold anything, NaN too
        return masked_mean((told - true).abs(), mask) + heatmap_loss(_expected(logits), logits, true, mask)["keypoint"]

    def _look(self, told: Tensor, keypoints: TokenGroup) -> Tensor:
        """The heatmaps near what is told; of a missing view only what is told."""
        assert keypoints.heatmaps is not None
        seen = supervised(keypoints.mask, self.views, self.history)  # (b, v, 3)
        heat = supervised(keypoints.heatmaps, self.views, self.history)  # (b, v, 3, h, w)
        distance = (told.unsqueeze(-2) - _cells(heat)).square().sum(-1) / (2 * (2 * self.spread).exp())
        return heat.masked_fill(~seen[..., None, None], 0) - distance.view_as(heat)


def _expected(logits: Tensor) -> Tensor:
    return logits.flatten(-2).softmax(-1) @ _cells(logits)


def _cells(heatmaps: Tensor) -> Tensor:
    height, width = heatmaps.shape[-2:]
    return pixel_grid(height, width).to(heatmaps)
