"""How much each of several losses counts: weights that are given, or learned from the uncertainty of each loss."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

LEARNING_RATE = (
    10.0  # times that of the network: a weight must follow its loss over an order of magnitude within a short training
)
LEAST = 0.01  # of b: a loss of nearly nothing would count without bound


class UncertaintyWeighting(nn.Module):
    """The weighted sum of losses by name.

    With learned weights every loss is taken for a negative log likelihood whose scale b is learned too: L / b + log b, which is
    exact of an L1 loss (a Laplace distribution) and the usual approximation of others (Kendall, Gal, Cipolla 2018, "Multi-Task
    Learning Using Uncertainty to Weigh Losses", whose σ² is this b). It begins at b = 1 / weight; where it settles b is the
    loss itself, so that no loss is drowned by another of larger units, but not below `LEAST`. A loss of weight 0 takes no part,
    and one of exactly 0, which had nothing to learn from, teaches no scale.

    Args:
        weights: of every loss that can come, at least 0.
        learned: whether they are only where learning begins.
        fixed: losses that keep their weight all the same.
        shared: loss to the loss whose learned weight it is multiplied by too, in proportion to their given weights.

    Example:
        >>> weighting = UncertaintyWeighting({"action": 1.0, "keypoints": 0.5})
        >>> float(weighting({"action": torch.tensor(2.0), "keypoints": torch.tensor(3.0)})["loss"])
        3.5
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        learned: bool = False,
        fixed: Collection[str] = (),
        shared: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.weights = dict(weights)
        free = [name for name, weight in weights.items() if weight and name not in fixed] if learned else []
        self.shared = {name: first for name, first in (shared or {}).items() if name in free and first in free}
        self.learned = [name for name in free if name not in self.shared]
        if learned:
            self.log_scales = nn.Parameter(torch.tensor([-math.log(weights[name]) for name in self.learned]))
            self.log_scales.lr_scale = LEARNING_RATE  # type: ignore[attr-defined]

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``"loss"``, their sum, before `losses` themselves; where weights are learned also ``"weight_NAME"``, what they are."""
        total: Tensor | None = None
        for name, weight in self.weights.items():
            if name not in losses or (self.learned and not weight):
                continue
            term = self._term(name, weight, losses[name])
            total = term if total is None else total + term
        assert total is not None, "no loss to minimize"
        now = {f"weight_{name}": (-self._log_scale(name)).exp().detach() for name in self.learned}
        return {"loss": total, **losses, **now}

    def _term(self, name: str, weight: float, loss: Tensor) -> Tensor:
        if name in self.shared:
            first = self.shared[name]
            return (-self._log_scale(first)).exp() * (weight / self.weights[first] * loss)
        if name not in self.learned:
            return weight * loss
        log_scale = self._log_scale(name)
        return (-log_scale).exp() * loss + log_scale * (loss.detach() > 0)

    def _log_scale(self, name: str) -> Tensor:
        return self.log_scales[self.learned.index(name)].clamp(min=math.log(LEAST))
