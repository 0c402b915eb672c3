"""Stochastic policies: distributions of actions with samples, log-probabilities and entropies, for reinforcement learning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Categorical, Distribution, Normal

from verbot.errors import ConfigError
from verbot.models.action_space import ActionReadout, classes, normal
from verbot.models.continuation import Continuation
from verbot.models.tokens import PlannedActions, TokenGroup
from verbot.spec import Component


@runtime_checkable
class StochasticHead(Protocol):
    """A head with a distribution of actions to sample from."""

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        """Normalized actions (b, k, a)."""
        ...

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor: ...


@runtime_checkable
class ContinuingHead(StochasticHead, Protocol):
    """A head that can continue the actions of an earlier chunk."""

    continuation: Continuation

    def continued(self, fused: TokenGroup, planned: PlannedActions, generator: torch.Generator | None = None) -> Tensor:
        """As `predict`, or as `sample` if a generator is given, continuing `planned`."""
        ...


def sampled(
    head: StochasticHead, fused: TokenGroup, seeds: Sequence[int | None], planned: PlannedActions | None = None
) -> Tensor:
    """Actions (b, k, a), sampled for rows with a seed and predicted for the others. Rows are independent of each other.

    Args:
        planned: for a head that can continue them.
    """
    rows = []
    for row, seed in enumerate(seeds):
        one = fused.select(slice(row, row + 1))
        drawn = None if seed is None else torch.Generator().manual_seed(seed)
        if planned is not None and isinstance(head, ContinuingHead):
            rows.append(head.continued(one, planned.select(slice(row, row + 1)), drawn))
        else:
            rows.append(head.predict(one) if drawn is None else head.sample(one, drawn))
    return torch.cat(rows)


@dataclass(frozen=True)
class ActionDistribution:
    """The distribution of one normalized action (b, a): a product over its dimensions."""

    parts: tuple[tuple[Component, tuple[Distribution, ...]], ...]

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """(b, a) float, by torch's global generator or by `generator`, which must be on the CPU."""
        return self._join(lambda d: d.sample() if generator is None else _drawn(d, generator))

    def mode(self) -> Tensor:
        """The most likely action (b, a)."""
        return self._join(lambda d: d.mode)

    def log_prob(self, actions: Tensor) -> Tensor:
        """The log-probability (b,) of actions (b, a)."""
        columns, total = iter(actions.unbind(-1)), torch.zeros(len(actions), device=actions.device)
        for component, distributions in self.parts:
            for low, distribution in zip(component.low, distributions, strict=True):
                value = next(columns)
                total = total + distribution.log_prob(value - low if component.kind == "discrete" else value)
        return total

    def entropy(self) -> Tensor:
        """(b,), in nats; the differential entropy for continuous dimensions."""
        return torch.stack([d.entropy() for _, distributions in self.parts for d in distributions]).sum(0)

    def _join(self, function: Callable[[Distribution], Tensor]) -> Tensor:
        columns = []
        for component, distributions in self.parts:
            for low, distribution in zip(component.low, distributions, strict=True):
                columns.append(function(distribution) + (low if component.kind == "discrete" else 0.0))
        return torch.stack(columns, -1).float()


class ActionDistributionHead(nn.Module):
    """Turns the raw outputs of a head with an `ActionReadout` into a distribution of actions.

    Discrete dimensions are categorical and grippers are Bernoulli. All others are normal around the output, with a learned
    standard deviation that does not depend on the observation.

    Args:
        log_std: initial logarithm of the standard deviation, in standard deviations of the training actions.

    Raises `ConfigError` for a quaternion, which has no such distribution; use a rotation delta.
    """

    def __init__(self, readout: ActionReadout, log_std: float = -1.0):
        super().__init__()
        for component in readout.action:
            if component.kind == "quaternion":
                raise ConfigError(f"action component {component.name!r} is a quaternion; reinforcement needs rotation deltas")
        self.readout = readout
        wide = sum(c.size for c in readout.action if c.kind not in ("discrete", "gripper"))
        self.log_std = nn.Parameter(torch.full((wide,), log_std))

    def forward(self, raw: Tensor) -> ActionDistribution:
        """`raw` (b, `readout.size`) to the distribution of one action."""
        parts: list[tuple[Component, tuple[Distribution, ...]]] = []
        widths = iter(self.log_std.exp())
        for component, numbers in zip(self.readout.action, self.readout.split(raw), strict=True):
            if component.kind == "discrete":
                options = numbers.split(classes(component), -1)
                parts.append((component, tuple(Categorical(logits=x, validate_args=False) for x in options)))
            elif component.kind == "gripper":
                parts.append((component, tuple(Bernoulli(logits=x, validate_args=False) for x in numbers.unbind(-1))))
            else:
                parts.append((component, tuple(Normal(x, next(widths), validate_args=False) for x in numbers.unbind(-1))))
        return ActionDistribution(tuple(parts))


def _drawn(distribution: Distribution, generator: torch.Generator) -> Tensor:
    """One draw for each row (b,), on the distribution's device."""
    if isinstance(distribution, Normal):
        return distribution.mean + distribution.stddev * normal(distribution.mean.shape, generator, distribution.mean.device)
    assert isinstance(distribution, (Categorical, Bernoulli))
    probabilities = distribution.probs.cpu()
    drawn = (
        torch.bernoulli(probabilities, generator=generator)
        if isinstance(distribution, Bernoulli)
        else categorical(probabilities, generator)
    )
    return drawn.to(distribution.probs.device)


def categorical(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Indices (…,) drawn with `probabilities` (…, n)."""
    return (
        torch.multinomial(probabilities.flatten(0, -2).cpu(), 1, generator=generator)
        .view(probabilities.shape[:-1])
        .to(probabilities.device)
    )
