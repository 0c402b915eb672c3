"""Imitation of actions: the loss of the action head."""

from __future__ import annotations

import torch

from verbot.models.features import Features, Losses, NetworkParts, TrainingObjective
from verbot.models.registries import objectives
from verbot.models.speaking import SpeakingHead
from verbot.models.tokens import Batch


@objectives.register("action")
class Action(TrainingObjective):
    """The loss of the action head (see `verbot.models.registries.heads`)."""

    def __init__(self, parts: NetworkParts):
        super().__init__()
        self._head = (parts.head,)  # in a tuple, so that torch does not register it twice

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"action"``, and the values that the head logs."""
        head = self._head[0]
        if isinstance(head, SpeakingHead):
            if features.spoken is None:
                return {}
            entropy, right = features.spoken.losses(features.spoken.suffix.is_action)
            return {"action": entropy, "right_tokens": right}
        found: Losses = head.losses(features.fused, batch, generator)  # type: ignore[operator]
        return found
