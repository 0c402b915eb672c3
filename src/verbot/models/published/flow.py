"""What the flow-matching policies of Physical Intelligence and LeRobot share: time runs from 1, noise, to 0, actions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verbot.errors import ConfigError


def time_embedding(time: Tensor, width: int, shortest: float, longest: float) -> Tensor:
    """Sines, then cosines (b, width) of times (b,), with periods from `shortest` to `longest`; computed in float64."""
    if width % 2:
        raise ConfigError(f"the time of a flow is embedded in an even number of features; got {width}")
    # Devices without float64 compute it on the CPU.
    share = torch.linspace(0, 1, width // 2, dtype=torch.float64)
    rates = 2 * math.pi / (shortest * (longest / shortest) ** share)
    angles = time.detach().cpu().double().unsqueeze(-1) * rates
    return torch.cat([angles.sin(), angles.cos()], -1).to(time)


def integrate(velocity: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int) -> Tensor:
    """Actions (b, k, a) of `noise`, by `steps` Euler steps from time 1 to 0; `velocity` is called with x and times (b,)."""
    x, dt = noise, -1.0 / steps
    for step in range(steps):
        x = x + dt * velocity(x, torch.full((len(x),), 1.0 + step * dt, dtype=torch.float32, device=x.device))
    return x


def drawn(shape: tuple[int, ...], generators: Sequence[torch.Generator], device: torch.device) -> Tensor:
    """Standard normal noise (b, *shape), each row by its own generator on the CPU."""
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def sampled_times(rows: int, generator: torch.Generator | None) -> Tensor:
    """Times (b,) of training: Beta(1.5, 1) · 0.999 + 0.001, which is that of u^(1/1.5) for a uniform u."""
    return torch.rand(rows, generator=generator) ** (1 / 1.5) * 0.999 + 0.001


def flow_loss(
    velocity: Callable[[Tensor, Tensor], Tensor], actions: Tensor, mask: Tensor, generator: torch.Generator | None
) -> Tensor:
    """The mean squared error of the velocity, noise − actions, over the actions (b, k, a) that `mask` (b, k) keeps."""
    noise = torch.randn(actions.shape, generator=generator).to(actions)
    time = sampled_times(len(actions), generator).to(actions)
    t = time[:, None, None]
    error = (velocity(t * noise + (1 - t) * actions, time) - (noise - actions)).square().mean(-1)
    return (error * mask).sum() / mask.sum().clamp(min=1)


def flow_allowed(prefix: Tensor, blocks: Sequence[int]) -> Tensor:
    """(b, n, m + n), which tokens those of a suffix read: every real one of a prefix (b, m), and of their and earlier blocks."""
    own = torch.tensor(blocks, device=prefix.device)
    seen = (own[None] <= own[:, None]).expand(len(prefix), -1, -1)
    return torch.cat([prefix.unsqueeze(1).expand(-1, len(own), -1), seen], 2)
