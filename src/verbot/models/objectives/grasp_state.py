"""Prediction of the robot state at the next grasp."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from verbot.models.features import AuxiliaryPrediction, Features, Losses, NetworkParts, TrainingObjective
from verbot.models.layers.transformer import masked_mean, reader
from verbot.models.registries import objectives
from verbot.models.tokens import Batch, Masked, TokenGroup


@objectives.register("grasp_state")
class GraspState(TrainingObjective):
    """The state at the next grasp (position, rotation, opening), predicted from the fused features; L1 loss.

    Its label needs no simulator: every frame gets the state in which the demonstration next closed the gripper on an object
    (`verbot.data.samples.labels.grasp_state`).
    """

    labels = ("grasp_state",)

    def __init__(self, parts: NetworkParts):
        super().__init__()
        hidden = max(parts.width, 64)
        read, state = reader(parts.width, parts.count), parts.sizes.state
        self.layers = nn.Sequential(read, nn.Linear(parts.width, hidden), nn.GELU(), nn.Linear(hidden, state))

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        """``"grasp_state"``."""
        target = batch.targets.get("grasp_state")
        return {} if target is None else {"grasp_state": self.loss(features.fused, target)}

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        """``"grasp"`` (b, s), in the units of the robot's state."""
        return {"grasp": AuxiliaryPrediction(self(features.fused), "state")}

    def forward(self, fused: TokenGroup) -> Tensor:
        """Normalized states (b, s)."""
        return self.layers(fused)

    def loss(self, fused: TokenGroup, true: Masked) -> Tensor:
        """The mean L1 error of normalized states over the valid rows; zero if there are none."""
        return masked_mean((self(fused) - true.values.masked_fill(~true.mask.unsqueeze(-1), 0)).abs(), true.mask)
