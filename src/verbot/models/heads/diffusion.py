"""Diffusion: action chunks by iterative denoising."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import Continuous, normal, start, targets
from verbot.models.continuation import Continuation, gain, pull, recordable, soft_mask
from verbot.models.heads.denoiser import Denoiser
from verbot.models.layers.transformer import masked_mean
from verbot.models.registries import heads
from verbot.models.tokens import Batch, HeadInput, PlannedActions, TokenGroup

PREDICTS = ("velocity", "noise", "actions")


@dataclass(frozen=True)
class DenoiserSize:
    """The size of the network.

    Args:
        hidden, layers: width and number of layers.
    """

    hidden: int = 256
    layers: int = 3


@dataclass(frozen=True)
class DiffusionGuidance:
    """How the head is guided towards planned actions in prediction.

    Args:
        schedule, beta: see `verbot.models.continuation.Continuation`.
    """

    schedule: str = "exp"
    beta: float = 5.0


SIZE, GUIDANCE = DenoiserSize(), DiffusionGuidance()


@heads.register("diffusion")
class Diffusion(nn.Module):
    """Denoising diffusion (Ho et al. 2020) sampled by DDIM without fresh noise (Song et al. 2021, η = 0).

    Level t of `levels` is x_t = √ᾱ_t·actions + √(1 − ᾱ_t)·ε; level 0 is nearly data, the last level nearly noise. ᾱ follows the
    squared cosine of Nichol & Dhariwal 2021, as in Diffusion Policy (Chi et al. 2023) and Octo. Sampling starts at the last
    level and uses `steps` evenly spaced levels. At each of them the predicted actions are clipped to ±`clip`, as in Octo.

    Args:
        levels: T, of noise in training.
        steps: number of steps of the sampler, at most `levels`.
        predict: the output and target of the network; the other two follow from it. ``"noise"`` ε is DDPM's simple loss, but at
            the last levels its errors are amplified a thousandfold in the actions. ``"actions"`` has no such level, and neither
            has ``"velocity"``, √ᾱ_t·ε − √(1 − ᾱ_t)·actions (Salimans & Ho 2022).
        clip: in normalized units.
        size: of the network.
        draws: draws of noise and level per sample; the expensive encoders run once for all of them.
        guidance: options of continuing the actions of an earlier chunk.
    """

    alphas: Tensor

    def __init__(
        self,
        inputs: HeadInput,
        levels: int = 100,
        steps: int = 8,
        predict: str = "velocity",
        clip: float = 5.0,
        size: DenoiserSize = SIZE,
        draws: int = 4,
        guidance: DiffusionGuidance = GUIDANCE,
    ):
        super().__init__()
        if not 1 <= steps <= levels or draws < 1:
            raise ConfigError(f"the diffusion head needs 1 ≤ steps ≤ levels and draws ≥ 1; got {steps}, {levels} and {draws}")
        if predict not in PREDICTS:
            raise ConfigError(f"a diffusion head cannot predict {predict!r}; it predicts {', '.join(PREDICTS)}")
        sizes = inputs.sizes
        self.shape, self.steps, self.draws, self.clip = (sizes.chunk, sizes.action_size), steps, draws, clip
        self.predicts, self.space = predict, Continuous(sizes.action)
        self.continuation = Continuation(schedule=guidance.schedule, beta=guidance.beta)
        self.denoiser = Denoiser(inputs, size.hidden, size.layers)
        self.register_buffer("alphas", squared_cosine(levels), persistent=False)

    def losses(self, fused: TokenGroup, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """``{"action": scalar}``, the mean squared error over valid steps and dimensions; zero if there are none."""
        known, valid = targets(batch)
        mask = valid.repeat_interleave(self.draws, 0)
        actions = self.space.forward(known).repeat_interleave(self.draws, 0)  # (b·draws, k, a)
        noise = normal(actions.shape, generator, actions.device)
        level = torch.randint(len(self.alphas), (len(actions),), generator=generator).to(actions.device)
        kept = self.alphas[level][:, None, None]
        # Padding may have any values and must not be input of the network, or valid steps would depend on it.
        mixed = torch.where(mask.unsqueeze(-1), kept.sqrt() * actions + (1 - kept).sqrt() * noise, noise)
        condition = self.denoiser.condition(fused).repeat_interleave(self.draws, 0)
        sought = {"noise": noise, "actions": actions, "velocity": kept.sqrt() * noise - (1 - kept).sqrt() * actions}
        error = self.guess(mixed, level, condition) - sought[self.predicts]
        return {"action": masked_mean(error.square(), mask)}

    def guess(self, x: Tensor, level: Tensor, condition: Tensor) -> Tensor:
        """The output of the network for x (b, k, a) at levels (b,)."""
        return self.denoiser(x, level / len(self.alphas), condition)

    def sample(self, fused: TokenGroup, generator: torch.Generator) -> Tensor:
        return self.predict(fused, generator)

    def predict(self, fused: TokenGroup, generator: torch.Generator | None = None) -> Tensor:
        """A sample if a generator is given, else the prediction from zero noise (see `verbot.models.action_space.start`)."""
        condition = self.denoiser.condition(fused)
        x = start(len(condition), self.shape, generator, condition.device)
        for now, then in self._levels():
            found = self.guess(x, torch.full((len(x),), now, device=x.device), condition)
            x = self.step(x, found, self.alphas[now], self._kept(then))
        return self.space.inverse(x)

    def continued(self, fused: TokenGroup, planned: PlannedActions, generator: torch.Generator | None = None) -> Tensor:
        """As `predict`, continuing the planned actions.

        x_t / (√ᾱ + √(1 − ᾱ)) is the x_τ of a flow at τ = √ᾱ / (√ᾱ + √(1 − ᾱ)), of which a step of DDIM is an Euler step. So the
        guidance is that of a flow: what it adds to the velocity moves the predicted actions by 1 − τ times as much.
        """
        condition = recordable(self.denoiser.condition(fused))
        x, y = start(len(fused.tokens), self.shape, generator, fused.tokens.device), self.space.forward(planned.values)
        weights = soft_mask(planned.committed, planned.known, x.shape[1], self.continuation.schedule)
        is_guided = (planned.known > 0)[:, None, None]
        for now, then in self._levels():
            kept = self.alphas[now]

            def estimate(at: Tensor, now: int = now, kept: Tensor = kept) -> tuple[Tensor, Tensor]:
                actions = self._actions(at, self.guess(at, torch.full((len(at),), now, device=at.device), condition), kept)
                return actions, actions

            actions, correction = pull(estimate, x, y, weights)
            scale = (kept.sqrt() + (1 - kept).sqrt()).item()
            time = kept.sqrt().item() / scale
            moved = actions + (1 - time) * gain(time, self.continuation.beta) * scale * correction
            x = self._toward(x, torch.where(is_guided, moved, actions), kept, self._kept(then))
        return self.space.inverse(x)

    def _levels(self) -> list[tuple[int, int | None]]:
        """The levels of the sampler, each with the next one."""
        levels = sampled_levels(len(self.alphas), self.steps)
        return list(zip(levels, [*levels[1:], None], strict=True))

    def _kept(self, level: int | None) -> Tensor:
        """ᾱ of a level; 1 for the actions themselves."""
        return self.alphas[level] if level is not None else torch.ones_like(self.alphas[0])

    def step(self, x: Tensor, found: Tensor, kept: Tensor, left: Tensor) -> Tensor:
        """One step of DDIM, from ᾱ = `kept` to `left`, with the output `found` of the network at x."""
        return self._toward(x, self._actions(x, found, kept), kept, left)

    def _toward(self, x: Tensor, actions: Tensor, kept: Tensor, left: Tensor) -> Tensor:
        """From x at ᾱ = `kept` to `left`, where `actions` are predicted."""
        actions = actions.clamp(-self.clip, self.clip)
        noise = (x - kept.sqrt() * actions) / (1 - kept).sqrt()
        return left.sqrt() * actions + (1 - left).sqrt() * noise

    def _actions(self, x: Tensor, found: Tensor, kept: Tensor) -> Tensor:
        """The predicted actions for x at ᾱ = `kept`, from the output of the network."""
        if self.predicts == "noise":
            return (x - (1 - kept).sqrt() * found) / kept.sqrt()
        return found if self.predicts == "actions" else kept.sqrt() * x - (1 - kept).sqrt() * found


def squared_cosine(levels: int, offset: float = 0.008, most: float = 0.999) -> Tensor:
    """ᾱ (levels,): the products of 1 − β_t with β_t = 1 − f(t + 1)/f(t), at most `most`, f(t) = cos²((t/T + s)/(1 + s)·π/2)."""

    def f(t: int) -> float:
        return math.cos((t / levels + offset) / (1 + offset) * math.pi / 2) ** 2

    betas = torch.tensor([min(1 - f(t + 1) / f(t), most) for t in range(levels)], dtype=torch.float64)
    return (1 - betas).cumprod(0).float()


def sampled_levels(levels: int, steps: int) -> list[int]:
    """`steps` evenly spaced levels, the last one first ("trailing" spacing, Lin et al. 2024)."""
    return [round(levels * (steps - i) / steps) - 1 for i in range(steps)]
