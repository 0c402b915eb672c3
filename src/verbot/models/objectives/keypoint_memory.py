"""Keypoints predicted from the fused features, which include the memory, and refined on the current heatmaps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.contracts import POINTS
from verbot.errors import ConfigError
from verbot.models.features import Features, Losses, NetworkParts, TrainingObjective
from verbot.models.layers.transformer import masked_mean, pixel_grid, reader
from verbot.models.objectives.keypoints import heatmap_loss, supervised
from verbot.models.registries import objectives
from verbot.models.tokens import Batch, Masked, TokenGroup

SPREAD = 0.3  # initial standard deviation, in units in which an image is 2 wide
PLACES = len(POINTS)


@objectives.register("keypoint_memory")
class KeypointMemory(TrainingObjective):
    """Keypoints predicted from the fused features, then refined near the prediction: memory is coarse, the image is exact.

    The heatmaps of the latest frame are multiplied by a normal distribution around the predicted position, with a learned width.
    This selects the remembered one among objects that look alike. Predicted and refined positions are added to the fused
    features. The label is known for covered positions too.

    Raises `ConfigError` for a vision encoder without heatmaps.
    """

    labels = ("known_keypoints",)

    def __init__(self, parts: NetworkParts):
        super().__init__()
        if "keypoints" not in parts.vision_counts:
            raise ConfigError(
                "keypoint_memory refines keypoints on heatmaps, and this vision encoder has none: leave it out of objectives"
            )
        self.views, self.history, width = parts.sizes.views, parts.sizes.history, parts.width
        places = 2 * self.views * PLACES
        self.pool, self.tell = reader(width, parts.count), nn.Linear(width, places)
        self.spread = nn.Parameter(torch.full((PLACES, 1), SPREAD).log())
        first, last = nn.Linear(width + 2 * places, width), nn.Linear(width, width)
        nn.init.normal_(first.weight[:, width:], std=0.3)  # so that positions have an effect from the first step on
        nn.init.kaiming_normal_(last.weight, nonlinearity="relu")
        self.join = nn.Sequential(first, nn.GELU(), last)

    def refine(self, features: Features) -> Features:
        """The cache holds the predicted positions (b, v, 3, 2) and the logits of the refined ones (b, v, 3, h, w)."""
        assert features.keypoints is not None
        fused, places, logits = self(features.fused, features.keypoints)
        return features.refined(fused, "keypoint_memory", (places, logits))

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"keypoint_memory"``."""
        if "known_keypoints" not in batch.targets:
            return {}
        places, logits = features.refine_cache["keypoint_memory"]
        return {"keypoint_memory": self.loss(places, logits, batch.targets["known_keypoints"])}

    def forward(self, fused: TokenGroup, keypoints: TokenGroup) -> tuple[TokenGroup, Tensor, Tensor]:
        """The fused tokens with positions, the predicted positions (b, v, 3, 2), logits of the refined ones (b, v, 3, h, w)."""
        now = self.pool(fused)
        places = self.tell(now).unflatten(-1, (self.views, PLACES, 2))
        logits = self._refine_heatmaps(places, keypoints)
        found = _expected(logits)
        change = self.join(torch.cat([now, places.flatten(1), found.flatten(1)], -1)).unsqueeze(1)
        return TokenGroup(fused.tokens + change, fused.mask, fused.kind), places, logits

    def loss(self, places: Tensor, logits: Tensor, true: Masked) -> Tensor:
        """`verbot.models.objectives.keypoints.keypoint_loss` of the predicted and of the refined positions."""
        values = true.values.masked_fill(~true.mask.unsqueeze(-1), 0)  # masked values may be NaN
        return masked_mean((places - values).abs(), true.mask) + heatmap_loss(_expected(logits), logits, values, true.mask)[0]

    def _refine_heatmaps(self, places: Tensor, keypoints: TokenGroup) -> Tensor:
        """The heatmaps times the normal distributions around the predictions; a missing view has the distributions only."""
        assert keypoints.heatmaps is not None
        seen = supervised(keypoints.mask, self.views, self.history)  # (b, v, 3)
        heat = supervised(keypoints.heatmaps, self.views, self.history)  # (b, v, 3, h, w)
        distance = (places.unsqueeze(-2) - _cells(heat)).square().sum(-1) / (2 * (2 * self.spread).exp())
        return heat.masked_fill(~seen[..., None, None], 0) - distance.view_as(heat)


def _expected(logits: Tensor) -> Tensor:
    return logits.flatten(-2).softmax(-1) @ _cells(logits)


def _cells(heatmaps: Tensor) -> Tensor:
    height, width = heatmaps.shape[-2:]
    return pixel_grid(height, width).to(heatmaps)
