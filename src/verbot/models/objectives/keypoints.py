"""Where to look: the loss that teaches the first heatmaps of each view what is handled, where it goes, and relative to what."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from verbot.models.layers.transformer import masked_mean
from verbot.models.tokens import TokenGroup

CROSS_ENTROPY_WEIGHT = 0.05
POINTS = 3  # supervised per view: the target, the receptacle, the reference


def pointing(groups: Sequence[TokenGroup]) -> TokenGroup | None:
    """The keypoint tokens among what a vision encoder made."""
    return next((group for group in groups if group.heatmaps is not None), None)


def supervised(values: Tensor, views: int, history: int = 1) -> Tensor:
    """The supervised rows (b, v, 3, …) of the latest frame in what the keypoint tokens hold (b, t·v·p, …)."""
    return values.unflatten(1, (history, views, -1))[:, -1, :, :POINTS]


def keypoint_loss(group: TokenGroup, true: Tensor, mask: Tensor, history: int = 1) -> dict[str, Tensor]:
    """L1 of the expected (x, y) + 0.05 × cross-entropy of the heatmap; zero where no keypoint is valid.

    The true location's probability is shared bilinearly among its four nearest cells, so that both terms have one optimum.

    Args:
        group: keypoint tokens, the latest frame's last.
        true: (b, v, 3, 2) in [-1, 1].
        mask: (b, v, 3) bool.
    """
    assert group.points is not None and group.heatmaps is not None
    views = true.shape[1]
    points = supervised(group.points, views, history)
    return heatmap_loss(points, supervised(group.heatmaps, views, history), true, mask)


def heatmap_loss(points: Tensor, logits: Tensor, true: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """As `keypoint_loss`, of points (b, v, 3, 2) and the logits (b, v, 3, h, w) that they are the expectation of."""
    true = true.masked_fill(~mask.unsqueeze(-1), 0)  # an unknown place may hold anything, NaN too
    place = masked_mean((points - true).abs(), mask)
    entropy = masked_mean(_cross_entropy(logits, true).unsqueeze(-1), mask)
    return {"keypoint": place + CROSS_ENTROPY_WEIGHT * entropy, "keypoint_l1": place.detach()}


def _cross_entropy(logits: Tensor, true: Tensor) -> Tensor:
    height, width = logits.shape[-2:]
    limit = true.new_tensor([width - 1, height - 1])
    cell = (true + 1) * (limit + 1) / 2 - 0.5  # in cells, (…, 2); the first cell's center is 0
    cell = torch.minimum(cell.clamp(min=0), limit)
    low = torch.minimum(cell.floor(), (limit - 1).clamp(min=0))
    right, down = (cell - low).unbind(-1)
    x, y = low.long().unbind(-1)
    x1, y1 = (x + 1).clamp(max=width - 1), (y + 1).clamp(max=height - 1)
    index = torch.stack([y * width + x, y * width + x1, y1 * width + x, y1 * width + x1], -1)
    share = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)
    return -(logits.flatten(-2).log_softmax(-1).gather(-1, index) * share).sum(-1)
