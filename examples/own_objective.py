"""A new auxiliary target in one file: a label, which reads it off recorded episodes, and an objective, which learns it.

Here it is where the tool will be half a second later. To use both in commands too, install the file as a package with these
entry points, and name the objective: `verbot train starter --set objectives.tool_ahead=0.5`

    [project.entry-points."verbot.labels"]
    tool_ahead = "own_objective:tool_ahead"

    [project.entry-points."verbot.objectives"]
    tool_ahead = "own_objective:ToolAhead"

Run it: python examples/own_objective.py [FOLDER]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import verbot
from verbot.data.samples.episode_arrays import EpisodeArrays
from verbot.data.samples.keypoints import tool_poses
from verbot.data.samples.labels import MaskedArray, labels
from verbot.models.features import AuxiliaryPrediction, Features, Losses, NetworkParts, TrainingObjective
from verbot.models.layers.transformer import masked_mean
from verbot.models.registries import objectives
from verbot.models.tokens import Batch
from verbot.policy.policy import VLAPolicy

AHEAD_S = 0.5
CM = 100.0


@labels.register("tool_ahead")
def tool_ahead(episode: EpisodeArrays) -> MaskedArray:
    """How far the tool moves in the next half second, (t, 3) in centimeters; unknown near the episode's end."""
    positions, _ = tool_poses(episode.states, episode.spec)
    last, steps = len(positions) - 1, round(AHEAD_S * episode.spec.rate_hz)
    frames = np.arange(len(positions))
    moved = CM * (positions[np.minimum(frames + steps, last)] - positions)
    return MaskedArray(moved.astype(np.float32), frames + steps <= last)


@objectives.register("tool_ahead")
class ToolAhead(TrainingObjective):
    """Predicts the label from the fused features; mean absolute error."""

    labels = ("tool_ahead",)

    def __init__(self, parts: NetworkParts):
        super().__init__()
        self.out = nn.Linear(parts.width, 3)

    def losses(self, features: Features, batch: Batch, generator: torch.Generator | None = None) -> Losses:
        target = batch.targets.get("tool_ahead")
        if target is None:
            return {}
        return {"tool_ahead": masked_mean((self.out(features.fused.mean()) - target.values).abs(), target.mask)}

    def predict(self, features: Features) -> Mapping[str, AuxiliaryPrediction]:
        return {"tool_ahead": AuxiliaryPrediction(self.out(features.fused.mean()))}


def main(folder: Path, steps: int = 60) -> VLAPolicy:
    """Train a tiny policy with the objective; its chunks tell the movement in `extras`."""
    objective: dict[str, Any] = {"objectives.tool_ahead": 0.5}
    result = verbot.train("tiny", out=folder, steps=steps, progress=False, **objective)
    return VLAPolicy.load(result.policy)


if __name__ == "__main__":
    policy = main(Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/own_objective"))
    print(f"trained for {', '.join(policy.config.objectives)}")
