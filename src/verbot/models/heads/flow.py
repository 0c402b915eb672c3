"""Flow matching: action chunks by integrating a velocity field from noise to data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import Continuous, normal, start, targets
from verbot.models.continuation import (
    CONTINUATION,
    Continuation,
    Velocity,
    integrate_after,
    integrate_guided,
    prefix_lengths,
    prefixes,
    recordable,
)
from verbot.models.heads.denoiser import Denoiser
from verbot.models.layers.transformer import masked_mean
from verbot.models.registries import heads
from verbot.models.tokens import Batch, HeadInput, PlannedActions, TokenGroup

ONE_STEP_TIME = -1.0  # the τ that stands for one step from noise to data


@dataclass(frozen=True)
class OneStep:
    """A flow that is distilled: it learns to go from noise to data in one step, as its own Euler steps do.

    The loss of `one_step_loss` is added. A network with ``steps=1`` then predicts with that step. Source: SnapFlow (Luan et al.
    2026), whose targets are two Euler steps of the network itself.

    Args:
        one_step: weight of that loss; 0 leaves it out, and a single step is then one Euler step.
        target_steps: how many Euler steps the one step learns to replace.
    """

    one_step: float = 0.0
    target_steps: int = 10

    def __post_init__(self) -> None:
        if not (math.isfinite(self.one_step) and self.one_step >= 0) or self.target_steps < 1:
            raise ConfigError(f"a flow has one_step ≥ 0 and target_steps ≥ 1; got {self.one_step:g} and {self.target_steps}")

    def checked(self, continuation: Continuation) -> OneStep:
        """Itself. Raises `ConfigError` where actions are continued by training, which no one step has learned."""
        if self.one_step and continuation.prefix:
            raise ConfigError("a flow with one_step does not continue clean actions; leave prefix out")
        return self

    def schedule(self, steps: int) -> tuple[tuple[float, float], ...]:
        """The τ and the length of each step."""
        if self.one_step and steps == 1:
            return ((ONE_STEP_TIME, 1.0),)
        return tuple((step / steps, 1 / steps) for step in range(steps))

    def field(self, velocity: Velocity, steps: int) -> Velocity:
        """The velocity that `steps` steps follow."""
        if not self.one_step or steps > 1:
            return velocity
        return lambda x, time, **known: velocity(x, torch.full_like(time, ONE_STEP_TIME), **known)


WITHOUT_ONE_STEP = OneStep()


@heads.register("flow")
class Flow(nn.Module):
    """Conditional flow matching with the convention of π0's paper (Black et al. 2024, §IV).

    Time τ = 0 is *noise* and τ = 1 is *data* (their code counts the other way): x_τ = τ·actions + (1 − τ)·ε, the network
    learns the velocity actions − ε, and sampling integrates it from 0 to 1 in `steps` Euler steps. In training τ = s·(1 − u) with
    u ~ Beta(1.5, 1): mostly noisy times, never above s = 0.999.

    Args:
        hidden, layers: the width and the number of layers of the network.
        steps: number of steps of the integration.
        draws: draws of noise and time per sample; the expensive encoders run once for all of them.
        continuation: options of continuing the actions of an earlier chunk.
        distilled: options of a distillation to one step.
    """

    def __init__(
        self,
        inputs: HeadInput,
        hidden: int = 256,
        layers: int = 3,
        steps: int = 8,
        draws: int = 4,
        continuation: Continuation = CONTINUATION,
        distilled: OneStep = WITHOUT_ONE_STEP,
    ):
        super().__init__()
        if steps < 1 or draws < 1:
            raise ConfigError(f"the flow head needs steps ≥ 1 and draws ≥ 1; got {steps} and {draws}")
        sizes = inputs.sizes
        self.shape, self.steps, self.draws = (sizes.chunk, sizes.action_size), steps, draws
        self.space = Continuous(sizes.action)
        self.continuation, self.distilled = continuation, distilled.checked(continuation)
        continuation.check(sizes.chunk)
        self.denoiser = Denoiser(inputs, hidden, layers, takes_clean=continuation.prefix > 0)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``, the mean squared error of the velocity over valid steps; zero if there are none."""
        velocity = partial(self.velocity, condition=self.denoiser.condition(fused).repeat_interleave(self.draws, 0))
        return flow_losses(self, velocity, batch, generator)

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor, clean: Tensor | None = None) -> Tensor:
        """d x / d τ (b, k, a) at x (b, k, a) and τ (b,), with clean actions where `clean` (b, k)."""
        return self.denoiser(x, time, condition, clean)

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        return self.predict(fused, generator)

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        """A sample if a generator is given, else the prediction from zero noise (see `verbot.models.action_space.start`)."""
        condition = self.denoiser.condition(fused)
        x = start(len(condition), self.shape, generator, condition.device)
        velocity = self.distilled.field(partial(self.velocity, condition=condition), self.steps)
        return self.space.inverse(integrate(velocity, x, self.steps))

    def continued(self, fused: TokenGroup, planned: PlannedActions, generator: torch.Generator | None = None) -> Tensor:
        """As `predict`, continuing the planned actions."""
        condition = recordable(self.denoiser.condition(fused))
        x = start(len(fused.tokens), self.shape, generator, fused.tokens.device)
        velocity = self.distilled.field(partial(self.velocity, condition=condition), self.steps)
        return continued(self.space, velocity, x, self.steps, planned, self.continuation)


def continued(
    space: Continuous, velocity: Velocity, x: Tensor, steps: int, planned: PlannedActions, options: Continuation
) -> Tensor:
    """Actions (b, k, a) that continue the planned ones: integrated from x, after a prefix or guided, as `options` say."""
    y = space.forward(planned.values)
    if not options.prefix:
        return space.inverse(integrate_guided(velocity, x, steps, y, planned, options))
    clean = prefixes(planned.committed.clamp(max=options.prefix), x.shape[1])
    return space.inverse(integrate_after(velocity, x, steps, y, clean))


def flow_loss(
    space: Continuous,
    velocity: Velocity,
    batch: Batch,
    draws: int,
    generator: torch.Generator | None = None,
    prefix: int = 0,
) -> Tensor:
    """The mean squared error of ``velocity(x_τ (b·draws, k, a), τ)`` over valid steps; zero if there are none.

    Args:
        prefix: each draw is given up to so many first actions, which have no loss.
    """
    known, valid = targets(batch)
    mask = valid.repeat_interleave(draws, 0)
    actions = space.forward(known).repeat_interleave(draws, 0)  # (b·draws, k, a)
    noise = normal(actions.shape, generator, actions.device)
    time = flow_times(len(actions), generator).to(actions.device)
    at = time[:, None, None]
    # Padding may have any values and must not be input of the network, or valid steps would depend on it.
    mixed = torch.where(mask.unsqueeze(-1), at * actions + (1 - at) * noise, noise)
    if not prefix:
        return masked_mean((velocity(mixed, time) - (actions - noise)).square(), mask)
    clean = prefixes(prefix_lengths(len(actions), prefix, generator).to(actions.device), actions.shape[1]) & mask
    found = velocity(torch.where(clean.unsqueeze(-1), actions, mixed), time, clean=clean)
    return masked_mean((found - (actions - noise)).square(), mask & ~clean)


class FlowHead(Protocol):
    """What the losses of the heads `flow` and `flow_expert` read."""

    space: Continuous
    draws: int
    continuation: Continuation
    distilled: OneStep


def flow_losses(head: FlowHead, velocity: Velocity, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """``{"action": scalar}`` of `flow_loss`; with a distillation ``"one_step"`` too, which is part of it."""
    loss = flow_loss(head.space, velocity, batch, head.draws, generator, head.continuation.prefix)
    if not head.distilled.one_step:
        return {"action": loss}
    apart = one_step_loss(velocity, batch, head.draws, head.distilled.target_steps, generator)
    return {"action": loss + head.distilled.one_step * apart, "one_step": apart.detach()}


def one_step_loss(velocity: Velocity, batch: Batch, draws: int, steps: int, generator: torch.Generator | None = None) -> Tensor:
    """The mean squared error over valid steps of the one step from noise, whose target is where `steps` Euler steps of the same
    network end, without gradient. The first draw of each row is no noise, from which predictions without a generator begin."""
    known, valid = targets(batch)
    mask = valid.repeat_interleave(draws, 0)
    noise = normal((len(known) * draws, *known.shape[1:]), generator, known.device)
    noise[::draws] = 0
    with torch.no_grad():
        target = integrate(velocity, noise, steps) - noise
    return masked_mean((velocity(noise, noise.new_full((len(noise),), ONE_STEP_TIME)) - target).square(), mask)


def integrate(velocity: Velocity, x: Tensor, steps: int) -> Tensor:
    """From τ = 0 at x (b, k, a) to τ = 1, in Euler steps."""
    for step in range(steps):
        x = x + velocity(x, torch.full((len(x),), step / steps, device=x.device)) / steps
    return x


def flow_times(count: int, generator: torch.Generator | None = None, alpha: float = 1.5, latest: float = 0.999) -> Tensor:
    """τ (count,) = latest·(1 − u) with u ~ Beta(alpha, 1), drawn by inversion: u = uniform^(1/alpha)."""
    return latest * (1 - torch.rand(count, generator=generator) ** (1 / alpha))
