"""The weighted sum of losses, with fixed weights or weights learned from the uncertainty of each loss."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

LEARNING_RATE = 10.0  # relative to the network's: a weight must follow its loss over an order of magnitude in a short training
LEAST = 0.01  # lower bound of the scale b, which bounds the weight of a loss near zero


class UncertaintyWeighting(nn.Module):
    """The weighted sum of losses by name.

    With learned weights each loss L is treated as a negative log likelihood with a learned scale b: L / b + log b. This is exact
    for an L1 loss (a Laplace distribution) and the usual approximation for others (Kendall, Gal, Cipolla 2018, "Multi-Task
    Learning Using Uncertainty to Weigh Losses", where σ² is this b). The initial scale is 1 / weight. At the optimum b equals
    the loss, but at least `LEAST`, so that losses with large units do not dominate. Losses with weight 0 are left out. A loss
    that is exactly 0, because its batch had no targets, does not change its scale.

    Args:
        weights: weights of all possible losses, at least 0.
        learned: learn the weights, starting from `weights`.
        fixed: losses whose weight is never learned.
        shared: loss to another loss whose learned weight it shares, in proportion to their initial weights.

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
        """``"loss"``, the weighted sum, followed by `losses`; with learned weights also ``"weight_NAME"``, their values."""
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
