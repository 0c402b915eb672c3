"""The words that a language trunk says beside its actions: answers, captions, reasoning."""

from __future__ import annotations

import torch

from verbot.models.features import Features, Losses, NetworkParts, TrainingObjective
from verbot.models.registries import objectives
from verbot.models.speaking import SpeakingBackbone
from verbot.models.tokens import Batch


@objectives.register("text")
class TextObjective(TrainingObjective):
    """The cross-entropy (nats) of `Batch.text_targets` over the vocabulary of the trunk. Other backbones have no such loss."""

    def __init__(self, parts: NetworkParts):
        super().__init__()
        self._speaks = isinstance(parts.backbone, SpeakingBackbone)

    @property
    def is_applicable(self) -> bool:
        return self._speaks

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"text"``, and ``"right_words"``, the share of words that are the most likely ones; empty for a batch without text."""
        if features.spoken is None or batch.text_targets is None:
            return {}
        entropy, right = features.spoken.losses(~features.spoken.suffix.is_action)
        return {"text": entropy, "right_words": right}
