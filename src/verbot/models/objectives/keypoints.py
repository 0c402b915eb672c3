"""The keypoint loss: supervises the first heatmaps of each view with the positions of target, receptacle and reference."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from verbot.contracts import POINTS
from verbot.models.features import AuxiliaryPrediction, Features, Losses, NetworkParts, TrainingObjective
from verbot.models.layers.transformer import masked_mean
from verbot.models.registries import objectives
from verbot.models.tokens import Batch, TokenGroup

CROSS_ENTROPY_WEIGHT = 0.05


@objectives.register("keypoints")
class Keypoints(TrainingObjective):
    """`keypoint_loss` of the instruction's heatmaps. It is not trained if the vision encoder has no heatmaps."""

    labels = ("keypoints",)
    reads_fused = False

    def __init__(self, parts: NetworkParts):
        super().__init__()
        self.views, self.history = parts.sizes.views, parts.sizes.history
        self._found = "keypoints" in parts.vision_counts

    @property
    def is_applicable(self) -> bool:
        return self._found

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"keypoints"``, and ``"keypoint_l1"``, its first term."""
        target, found = batch.targets.get("keypoints"), features.keypoints
        if target is None or found is None:
            return {}
        loss, distance = keypoint_loss(found, target.values, target.mask, self.history)
        return {"keypoints": loss, "keypoint_l1": distance}

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        """``"keypoints"`` (b, v, 3, 2): positions of target, receptacle and reference in each image, in [-1, 1]."""
        found = features.keypoints
        if found is None:
            return {}
        assert found.points is not None
        return {"keypoints": AuxiliaryPrediction(supervised(found.points, self.views, self.history), "image_points")}


def supervised(values: Tensor, views: int, history: int = 1) -> Tensor:
    """The supervised entries (b, v, 3, …) of the latest frame among those of all keypoint tokens (b, t·v·p, …)."""
    return values.unflatten(1, (history, views, -1))[:, -1, :, : len(POINTS)]


def keypoint_loss(group: TokenGroup, true: Tensor, mask: Tensor, history: int = 1) -> tuple[Tensor, Tensor]:
    """L1 of the expected (x, y) + 0.05 × cross-entropy of the heatmap, zero if no keypoint is valid; and the L1 term.

    The target distribution is bilinear over the four nearest cells, so that both terms have the same optimum.

    Args:
        group: keypoint tokens, the latest frame's last.
        true: (b, v, 3, 2) in [-1, 1].
        mask: (b, v, 3) bool.
    """
    assert group.points is not None and group.heatmaps is not None
    views = true.shape[1]
    points = supervised(group.points, views, history)
    return heatmap_loss(points, supervised(group.heatmaps, views, history), true, mask)


def heatmap_loss(points: Tensor, logits: Tensor, true: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """As `keypoint_loss`, for points (b, v, 3, 2) that are the means of the logits (b, v, 3, h, w)."""
    true = true.masked_fill(~mask.unsqueeze(-1), 0)  # masked values may be NaN
    place = masked_mean((points - true).abs(), mask)
    entropy = masked_mean(_cross_entropy(logits, true).unsqueeze(-1), mask)
    return place + CROSS_ENTROPY_WEIGHT * entropy, place.detach()


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
