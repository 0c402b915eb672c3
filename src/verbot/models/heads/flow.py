"""Flow matching: a chunk of actions is carried from noise to data along straight lines."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers import masked_mean, reader, sinusoid
from verbot.models.parts import heads
from verbot.models.tokens import Batch, Sizes, TokenGroup


@heads.register("flow")
class Flow(nn.Module):
    """Conditional flow matching with the convention of π0's paper (Black et al. 2024, §IV).

    Time τ = 0 is *noise* and τ = 1 is *data* (their code counts the other way): x_τ = τ·actions + (1 − τ)·ε, the network
    learns the velocity actions − ε, and sampling integrates from 0 to 1 in `steps` Euler steps. In training τ = s·(1 − u)
    with u ~ Beta(1.5, 1): mostly noisy times, never above s = 0.999. Gripper values 0..1 are flowed as −1..1 and clipped
    after; quaternions are brought to unit length, w ≥ 0.

    Args:
        hidden, layers: of the velocity network.
        steps: of the integration.
        draws: noises and times learned from per sample; the costly encoders run once for all.
    """

    def __init__(self, sizes: Sizes, width: int, count: int, hidden: int = 256, layers: int = 3, steps: int = 8, draws: int = 4):
        super().__init__()
        if steps < 1 or draws < 1:
            raise ConfigError(f"the flow head needs steps ≥ 1 and draws ≥ 1; got {steps} and {draws}")
        self.shape, self.action, self.steps, self.draws = (sizes.chunk, sizes.action_size), sizes.action, steps, draws
        self.sizes = [c.size for c in sizes.action]
        flat = sizes.chunk * sizes.action_size
        self.pool, self.condition = reader(width, count), nn.Linear(width, hidden)
        self.time, self.noisy = (
            nn.Sequential(nn.Linear(64, hidden), nn.SiLU(), nn.Linear(hidden, hidden)),
            nn.Linear(flat, hidden),
        )
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(hidden), nn.Linear(hidden, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
            for _ in range(layers)
        )
        self.out = nn.Linear(hidden, flat)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``, the mean squared error of the velocity over valid steps; zero where there are none."""
        assert batch.actions is not None and batch.actions_mask is not None
        mask = batch.actions_mask.repeat_interleave(self.draws, 0)
        actions = self._scale(batch.actions).repeat_interleave(self.draws, 0)  # (b·draws, k, a)
        actions = actions.masked_fill(~mask.unsqueeze(-1), 0)  # padding may hold anything, NaN too
        noise = torch.randn(actions.shape, generator=generator, device=actions.device)
        time = flow_times(len(actions), generator).to(actions.device)
        at = time[:, None, None]
        condition = self._condition(fused).repeat_interleave(self.draws, 0)
        # Padding holds anything: the network must not read it, or the valid steps would depend on it.
        mixed = torch.where(mask.unsqueeze(-1), at * actions + (1 - at) * noise, noise)
        error = (self.velocity(mixed, time, condition) - (actions - noise)).square()
        return {"action": masked_mean(error, mask)}

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
        """d x / d τ (b, k, a) at x (b, k, a) and τ (b,)."""
        h = self.noisy(x.flatten(1)) + self.time(sinusoid(time * 100, 64)) + condition
        for layer in self.layers:
            h = h + layer(h)
        return self.out(h).unflatten(-1, self.shape)

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        """Without a generator all rows start from one fixed noise, so that a prediction depends on its observation alone."""
        condition = self._condition(fused)
        if generator is None:
            fixed = torch.Generator().manual_seed(0)
            x = torch.randn((1, *self.shape), generator=fixed).to(condition.device).expand(len(condition), -1, -1)
        else:
            x = torch.randn((len(condition), *self.shape), generator=generator, device=condition.device)
        for step in range(self.steps):
            time = torch.full((len(x),), step / self.steps, device=x.device)
            x = x + self.velocity(x, time, condition) / self.steps
        return self._unscale(x)

    def _condition(self, fused: TokenGroup) -> Tensor:
        return self.condition(self.pool(fused))

    def _scale(self, actions: Tensor) -> Tensor:
        parts = zip(self.action, actions.split(self.sizes, -1), strict=True)
        return torch.cat([x * 2 - 1 if c.kind == "gripper" else x for c, x in parts], -1)

    def _unscale(self, x: Tensor) -> Tensor:
        return torch.cat([_decode(c.kind, part) for c, part in zip(self.action, x.split(self.sizes, -1), strict=True)], -1)


def flow_times(count: int, generator: torch.Generator | None = None, alpha: float = 1.5, latest: float = 0.999) -> Tensor:
    """τ (count,) = latest·(1 − u) with u ~ Beta(alpha, 1), drawn by inversion: u = uniform^(1/alpha)."""
    return latest * (1 - torch.rand(count, generator=generator) ** (1 / alpha))


def _decode(kind: str, x: Tensor) -> Tensor:
    if kind == "gripper":
        return ((x + 1) / 2).clamp(0, 1)
    if kind == "quaternion":
        unit = F.normalize(x, dim=-1)
        return torch.where(unit[..., :1] < 0, -unit, unit)
    return x
