"""Continuing a chunk: the next one is drawn towards the actions that the robot still has, or conditioned on the first of them.

Guidance is that of Black et al. 2025 ("Real-Time Execution of Action Chunking Flow Policies"), with the pseudoinverse guidance of
Song et al. 2023 ("ΠGDM") and Pokle et al. 2023; conditioning on a prefix that of Black et al. 2025 ("Training-Time Action
Conditioning for Efficient Real-Time Chunking").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from verbot.errors import ConfigError
from verbot.models.tokens import PlannedActions, TokenGroup

SCHEDULES = ("exp", "linear", "ones", "zeros")
FALL = 2.0  # the longest prefix is e^-FALL times as likely as none
# The velocity (b, k, a) at x (b, k, a) and τ (b,), and optionally at positions (b, k) that hold clean actions.
Velocity = Callable[..., Tensor]
Conditioning = TypeVar("Conditioning", Tensor, TokenGroup)


@dataclass(frozen=True)
class Continuation:
    """How a generative head continues planned actions.

    Args:
        prefix: the head is trained to continue chunks of which up to so many first actions are given; 0 trains it without, and
            guides it towards the planned actions in prediction.
        schedule: weights of guidance after the committed actions, whose weight is 1: ``"exp"`` and ``"linear"`` fall to 0 at the
            last planned one, ``"ones"`` are 1, ``"zeros"`` are 0.
        beta: the most by which guidance is multiplied.

    Raises `ConfigError` for a schedule that there is not, and numbers out of range.
    """

    prefix: int = 0
    schedule: str = "exp"
    beta: float = 5.0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"there is no schedule {self.schedule!r} of guidance; there are {', '.join(SCHEDULES)}")
        if self.prefix < 0 or not (math.isfinite(self.beta) and self.beta >= 0):
            raise ConfigError(f"a head needs prefix ≥ 0 and a finite beta ≥ 0; got {self.prefix} and {self.beta}")

    def check(self, chunk: int) -> None:
        """Raise `ConfigError` for a prefix that leaves nothing of a chunk to predict."""
        if self.prefix >= chunk:
            raise ConfigError(f"prefix is {self.prefix}; expected less than the {chunk} actions of a chunk")


CONTINUATION = Continuation()


def soft_mask(start: Tensor, end: Tensor, total: int, schedule: str) -> Tensor:
    """Weights (b, total) of guidance: 1 before `start` (b,), 0 from `end` (b,) on, and by the schedule between.

    Example:
        >>> soft_mask(torch.tensor([2]), torch.tensor([6]), 8, "linear")[0].tolist()
        [1.0, 1.0, 0.800000011920929, 0.6000000238418579, 0.3999999761581421, 0.19999998807907104, 0.0, 0.0]
    """
    index, end = torch.arange(total, device=start.device), end.unsqueeze(-1)
    start = torch.minimum(start.unsqueeze(-1), end)
    if schedule == "ones":
        weights = torch.ones(len(start), total, device=start.device)
    elif schedule == "zeros":
        weights = (index < start).float()
    else:
        weights = ((start - 1 - index) / (end - start + 1) + 1).clamp(0, 1)
        weights = weights * torch.expm1(weights) / math.expm1(1) if schedule == "exp" else weights
    return torch.where(index < end, weights, torch.zeros_like(weights))


def gain(time: float, beta: float) -> float:
    """What guidance is multiplied by at τ = `time`: (1 − τ)/τ · (τ² + (1 − τ)²)/(1 − τ)², at most `beta`."""
    ratio = beta if time == 0 else (1 - time) / time
    return min(ratio * (time**2 + (1 - time) ** 2) / (1 - time) ** 2, beta)


def pull(estimate: Callable[[Tensor], tuple[Tensor, Tensor]], x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The gradient that draws the clean chunk at x (b, k, a) towards y (b, k, a): Jᵀ((y − clean)·weights), J = ∂clean/∂x.

    The product with the Jacobian is exact, through the whole network, also where the caller records no gradients.

    Args:
        estimate: maps x to the clean chunk, and to what the network put out. Tensors that it uses must not be those of
            ``torch.inference_mode`` (see `recordable`).
        weights: (b, k).

    Returns the output of the network, which is the same as without guidance, and the gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        at = x.detach().clone().requires_grad_()
        clean, output = estimate(at)
        error = (y - clean.detach()) * weights.unsqueeze(-1)
        (found,) = torch.autograd.grad(clean, at, error)
    return output.detach(), found


def recordable(condition: Conditioning) -> Conditioning:
    """A copy through which `pull` can differentiate, although it was computed in ``torch.inference_mode``."""
    with torch.inference_mode(False):
        if isinstance(condition, Tensor):
            return condition.clone()
        layers = None if condition.layers is None else tuple(layer.clone() for layer in condition.layers)
        tokens = condition.tokens.clone() if layers is None else layers[-1]
        cache = None if condition.cache is None else condition.cache.changed(Tensor.clone)
        return TokenGroup(tokens, condition.mask.clone(), condition.kind, layers=layers, cache=cache)


def integrate_guided(
    velocity: Velocity, x: Tensor, steps: int, y: Tensor, planned: PlannedActions, options: Continuation
) -> Tensor:
    """From τ = 0 at x (b, k, a) to τ = 1 in Euler steps, drawn towards y; rows without planned actions as without guidance."""
    weights = soft_mask(planned.committed, planned.known, x.shape[1], options.schedule)
    is_guided = (planned.known > 0)[:, None, None]
    for step in range(steps):
        time = step / steps

        def estimate(at: Tensor, time: float = time) -> tuple[Tensor, Tensor]:
            found = velocity(at, torch.full((len(at),), time, device=at.device))
            return at + (1 - time) * found, found

        found, correction = pull(estimate, x, y, weights)
        x = x + torch.where(is_guided, found + gain(time, options.beta) * correction, found) / steps
    return x


def integrate_after(velocity: Velocity, x: Tensor, steps: int, y: Tensor, clean: Tensor) -> Tensor:
    """From τ = 0 at x (b, k, a) to τ = 1 in Euler steps, with the actions y where `clean` (b, k)."""
    where = clean.unsqueeze(-1)
    for step in range(steps):
        x = torch.where(where, y, x)
        x = x + velocity(x, torch.full((len(x),), step / steps, device=x.device), clean=clean) / steps
    return torch.where(where, y, x)


def prefixes(lengths: Tensor, total: int) -> Tensor:
    """(b, total) bool, True for the first `lengths` (b,) positions."""
    return torch.arange(total, device=lengths.device) < lengths.unsqueeze(-1)


def prefix_lengths(count: int, most: int, generator: torch.Generator | None = None) -> Tensor:
    """Lengths (count,) from 0 to `most`, shorter ones more often: their probabilities fall as exp(−`FALL`·length/most)."""
    chances = torch.exp(-FALL * torch.arange(most + 1) / most)
    edges = (chances / chances.sum()).cumsum(0)[:-1]
    return torch.bucketize(torch.rand(count, generator=generator), edges, right=True)
