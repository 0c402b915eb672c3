"""How much each of several losses counts: weights that are given, or learned from how certain each loss can be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

PACE = 10.0  # a weight must follow its loss over an order of magnitude within a short training
LEAST = 0.01  # of b: a loss of nearly nothing would count without bound


class Balance(nn.Module):
    """The weighted sum of losses by name.

    With learned weights every loss is taken for a negative log likelihood whose scale b is learned too: L / b + log b, which is
    exact of an L1 loss (a Laplace distribution) and the usual approximation of others (Kendall, Gal, Cipolla 2018, "Multi-Task
    Learning Using Uncertainty to Weigh Losses", whose σ² is this b). It begins at b = 1 / weight; where it settles b is the
    loss itself, so that no loss is drowned by another of larger units, but not below `LEAST`. A loss of weight 0 takes no part,
    and one of exactly 0, which had nothing to learn from, teaches no scale.

    Args:
        weights: of every loss that can come, at least 0.
        learned: whether they are only where learning begins.
        fixed: losses that keep their weight all the same. One that soon is nearly 0 but for a few wrong labels would come to
            count more than all others, as a classifier's does.

    Example:
        >>> float(Balance({"action": 1.0, "keypoint": 0.5})({"action": torch.tensor(2.0), "keypoint": torch.tensor(3.0)})["loss"])
        3.5
    """

    def __init__(self, weights: Mapping[str, float], learned: bool = False, fixed: Collection[str] = ()):
        super().__init__()
        self.weights = dict(weights)
        self.learned = [name for name, weight in weights.items() if weight and name not in fixed] if learned else []
        if learned:
            self.log_scales = nn.Parameter(torch.tensor([-math.log(weights[name]) for name in self.learned]))
            self.log_scales.lr_scale = PACE  # type: ignore[attr-defined]

    def forward(self, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """``"loss"``, their sum, before `losses` themselves; where weights are learned also ``"weight_NAME"``, what they are."""
        total: Tensor | None = None
        for name, weight in self.weights.items():
            if name not in losses or (self.learned and not weight):
                continue
            term = self._term(name, losses[name]) if name in self.learned else weight * losses[name]
            total = term if total is None else total + term
        assert total is not None, "no loss to minimize"
        told = {f"weight_{name}": (-self._log_scale(name)).exp().detach() for name in self.learned}
        return {"loss": total, **losses, **told}

    def _term(self, name: str, loss: Tensor) -> Tensor:
        log_scale = self._log_scale(name)
        return (-log_scale).exp() * loss + log_scale * (loss.detach() > 0)

    def _log_scale(self, name: str) -> Tensor:
        return self.log_scales[self.learned.index(name)].clamp(min=math.log(LEAST))
