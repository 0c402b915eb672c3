"""The keypoint loss of grounding queries: other goals of the same images."""

from __future__ import annotations

import torch

from verbot.models.features import Features, Losses, NetworkParts, Queries, TrainingObjective
from verbot.models.objectives.keypoints import keypoint_loss
from verbot.models.registries import objectives
from verbot.models.tokens import Batch


@objectives.register("grounding_queries")
class GroundingQueries(TrainingObjective):
    """`keypoint_loss` of goals other than the instruction (``augment.grounding_queries``).

    Each query is encoded with the images of its row. This is cheap if the vision encoder takes the instruction last. A learned
    loss weight is shared with the keypoint loss.
    """

    reads_fused = False
    shares_scale = "keypoints"

    def __init__(self, parts: NetworkParts):
        super().__init__()
        self._found = "keypoints" in parts.vision_counts

    @property
    def is_applicable(self) -> bool:
        return self._found

    def queries(self, batch: Batch) -> Queries | None:
        queries = batch.grounding_queries
        return None if queries is None or not self._found else Queries(queries.rows, queries.text)

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"grounding_queries"``; empty for a batch without queries."""
        queries = batch.grounding_queries
        if queries is None or not self._found:
            return {}
        loss, _ = keypoint_loss(features.answers["grounding_queries"].keypoints, queries.keypoints.values, queries.keypoints.mask)
        return {"grounding_queries": loss}
