"""Noise schedules with the steps of DDPM (Ho et al. 2020) and DDIM (Song et al. 2021), as the diffusers library has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verbot.errors import ConfigError

KINDS, PREDICTIONS = ("DDPM", "DDIM"), ("epsilon", "sample")


@dataclass(frozen=True)
class NoiseSchedule:
    """How much of a sample is noise at each of `count` times, and the steps back.

    Args:
        kind: ``"DDPM"``, whose steps draw noise, or ``"DDIM"``, whose do not.
        schedule: of the betas: ``"squaredcos_cap_v2"``, ``"linear"`` or ``"scaled_linear"``.
        first, last: the betas at the ends of a linear schedule.
        prediction: a network predicts the noise (``"epsilon"``) or the clean sample (``"sample"``).
        clip: clean samples are clipped to ±`clip`; None leaves them.
        steps: of a prediction, spread evenly over the times.

    Raises `ConfigError` for what is not known.
    """

    kind: str = "DDPM"
    count: int = 100
    schedule: str = "squaredcos_cap_v2"
    first: float = 1e-4
    last: float = 0.02
    prediction: str = "epsilon"
    clip: float | None = 1.0
    steps: int = 100

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.prediction not in PREDICTIONS:
            raise ConfigError(
                f"diffusion with {self.kind} that predicts {self.prediction!r} is not known; known: {', '.join(KINDS)}, "
                f"{', '.join(PREDICTIONS)}"
            )
        if not 1 <= self.steps <= self.count:
            raise ConfigError(f"diffusion in {self.steps} steps over {self.count} times is not possible")
        self.betas()

    def betas(self) -> Tensor:
        """(count,) float32."""
        if self.schedule == "squaredcos_cap_v2":
            kept = [math.cos((i / self.count + 0.008) / 1.008 * math.pi / 2) ** 2 for i in range(self.count + 1)]
            return torch.tensor([min(1 - kept[i + 1] / kept[i], 0.999) for i in range(self.count)], dtype=torch.float32)
        if self.schedule == "linear":
            return torch.linspace(self.first, self.last, self.count)
        if self.schedule == "scaled_linear":
            return torch.linspace(self.first**0.5, self.last**0.5, self.count) ** 2
        raise ConfigError(f"there is no noise schedule {self.schedule!r}; known: squaredcos_cap_v2, linear, scaled_linear")

    def kept(self) -> Tensor:
        """(count,) float32, the share of the variance at each time that is the clean sample's (ᾱ)."""
        return torch.cumprod(1 - self.betas(), 0)

    def times(self) -> list[int]:
        """The times of a prediction, the noisiest first."""
        stride = self.count // self.steps
        return [i * stride for i in range(self.steps)][::-1]

    def noised(self, clean: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        """Samples (b, …) at times (b,)."""
        kept = self.kept().to(clean)[times].reshape(-1, *[1] * (clean.ndim - 1))
        return kept.sqrt() * clean + (1 - kept).sqrt() * noise

    def step(self, predicted: Tensor, time: int, sample: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """The sample (b, …) one step of a prediction before `time`; `generators`, one a row, draw the noise of DDPM."""
        kept = self.kept()
        before = time - self.count // self.steps
        now = float(kept[time])
        then = float(kept[before]) if before >= 0 else 1.0
        if self.prediction == "epsilon":
            clean = (sample - (1 - now) ** 0.5 * predicted) / now**0.5
        else:
            clean = predicted
        if self.clip is not None:
            clean = clean.clamp(-self.clip, self.clip)
        if self.kind == "DDIM":
            # Of what is not clean, the noise is that which the network predicted, not that which clipping would leave.
            noise = predicted if self.prediction == "epsilon" else (sample - now**0.5 * predicted) / (1 - now) ** 0.5
            return then**0.5 * clean + (1 - then) ** 0.5 * noise
        alpha = now / then
        beta = 1 - alpha
        mean = then**0.5 * beta / (1 - now) * clean + alpha**0.5 * (1 - then) / (1 - now) * sample
        if time == 0:
            return mean
        variance = max((1 - then) / (1 - now) * beta, 1e-20)
        drawn = torch.stack([torch.randn(sample.shape[1:], generator=generator) for generator in generators])
        return mean + variance**0.5 * drawn.to(sample)
