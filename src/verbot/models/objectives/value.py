"""The value of a state: its discounted success."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.features import AuxiliaryPrediction, Features, Losses, NetworkParts, TrainingObjective
from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.registries import objectives
from verbot.models.tokens import Batch, TokenGroup


@objectives.register("value")
class Value(TrainingObjective):
    """The discounted return γ^(steps left), predicted from the fused features.

    A demonstration gets a reward of 1 at its last frame and 0 before, so the return of every frame is known, in (0, 1]. The
    prediction is the value function of the demonstrator (Sutton and Barto 2018, §3.5).

    Args:
        discount: γ, per control step.

    Raises `ConfigError` for a discount that is not between 0 and 1.
    """

    labels = ("steps_left",)

    def __init__(self, parts: NetworkParts, discount: float = 0.97):
        super().__init__()
        if not 0 < discount < 1:
            raise ConfigError(f"the value objective needs a discount between 0 and 1; got {discount:g}")
        self.discount, hidden = discount, max(parts.width, 64)
        read = reader(parts.width, parts.count)
        self.layers = nn.Sequential(read, nn.Linear(parts.width, hidden), nn.GELU(), nn.Linear(hidden, 1))

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"value"``."""
        return {"value": self.loss(features.fused, batch)} if "steps_left" in batch.targets else {}

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        """``"value"`` (b,), which becomes `ActionChunk.value`."""
        return {"value": AuxiliaryPrediction(self(features.fused))}

    def forward(self, fused: TokenGroup) -> Tensor:
        """The value of each row, (b,) in (0, 1)."""
        return self._logits(fused).sigmoid()

    def loss(self, fused: TokenGroup, batch: Batch) -> Tensor:
        """The binary cross-entropy with γ^(steps left), a scalar.

        It covers rows with actions whose episode ended in success; zero if there are none.
        """
        assert batch.actions_mask is not None
        left = batch.targets["steps_left"]
        known = batch.actions_mask.any(1) & left.mask
        target = self.discount ** left.values.clamp(min=0).float()
        errors = F.binary_cross_entropy_with_logits(self._logits(fused).float(), target, reduction="none")
        return masked_mean(errors.unsqueeze(-1), known)

    def _logits(self, fused: TokenGroup) -> Tensor:
        return self.layers(fused).squeeze(-1)
