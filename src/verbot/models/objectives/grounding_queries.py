"""Other goals of the same images: where their targets, receptacles and references are."""

from __future__ import annotations

import torch

from verbot.models.features import Features, Losses, NetworkParts, Queries, TrainingObjective
from verbot.models.objectives.keypoints import keypoint_loss
from verbot.models.registries import objectives
from verbot.models.tokens import Batch


@objectives.register("grounding_queries")
class GroundingQueries(TrainingObjective):
    """`keypoint_loss` of goals that the instruction does not name (``augment.grounding_queries``).

    Each goal's sentence is encoded with the images of its row, which costs little where the vision encoder sees before it
    listens. A learned loss weight is that of the keypoints.
    """

    reads_fused = False
    shares_scale = "keypoints"

    def __init__(self, parts: NetworkParts):
        super().__init__()
        self._found = "keypoints" in parts.vision_counts

    @property
    def learns(self) -> bool:
        return self._found

    def queries(self, batch: Batch) -> Queries | None:
        asked = batch.grounding_queries
        return None if asked is None or not self._found else Queries(asked.rows, asked.text)

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"grounding_queries"``; none for a batch without queries."""
        asked = batch.grounding_queries
        if asked is None or not self._found:
            return {}
        loss, _ = keypoint_loss(features.answers["grounding_queries"].keypoints, asked.keypoints.values, asked.keypoints.mask)
        return {"grounding_queries": loss}
