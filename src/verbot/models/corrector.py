"""The network of a corrector: what to change in one row of a late chunk, from what the robot sees now.

The idea is that of Sendai et al. 2025, "Leave No Observation Behind: Real-time Correction for VLA Action Chunks" (A2C2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.action_space import ActionReadout, parts
from verbot.models.layers.transformer import centered
from verbot.models.tokens import Sizes, TokenGroup
from verbot.ranges import NumberRange, check_ranges
from verbot.spec import Component

FLAT = 4096  # numbers of the fused tokens that are kept one by one; of more their mean
FREQUENCIES = 4
SURE = 1e-3  # a gripper's probability nearer to 0 or 1 than this is read as this
SIZE = NumberRange(1, 4096, whole=True)


@dataclass(frozen=True)
class CorrectorConfig:
    """The size of a corrector.

    Args:
        channels: of the first convolution; the others have twice as many.
        features: points that are found in each picture.
        hidden: width of the hidden layers.

    Raises `ConfigError` for a number out of range.
    """

    channels: int = 16
    features: int = 32
    hidden: int = 256

    def __post_init__(self) -> None:
        check_ranges(self, channels=SIZE, features=SIZE, hidden=SIZE)


def latent_of(fused: TokenGroup, count: int, state: Tensor) -> Tensor:
    """What a corrector knows of the prediction beside its actions: the fused tokens and the state (b, t, s) of then, (b, l).

    Args:
        count: of the fused tokens; 0 is any number, of which only the mean is known.
    """
    flat = 0 < fused.width * count <= FLAT
    seen = fused.tokens.masked_fill(~fused.mask.unsqueeze(-1), 0.0).flatten(1) if flat else fused.mean()
    return torch.cat([seen, state[:, -1]], -1)


def latent_size(width: int, count: int, state: int) -> int:
    """l of `latent_of` for `count` fused tokens of this width and `state` numbers of a state."""
    return (width * count if 0 < width * count <= FLAT else width) + state


class CorrectorNetwork(nn.Module):
    """Maps the latest pictures and state, a chunk, and the index of the row that is due, to what corrects that row.

    Two strided convolutions are scaled by the chunk, the row and the latent, so that they seek what the chunk is about; the means
    of soft maxima then say where it is. Every output is 0 before training: the action is that of the chunk. Discrete components
    are never corrected.

    Args:
        sizes: of robot and base network.
        latent: l of `latent_of`.

    Raises `ConfigError` for a robot with discrete actions alone.
    """

    def __init__(self, config: CorrectorConfig, sizes: Sizes, latent: int):
        super().__init__()
        self.config, self.sizes, self.latent = config, sizes, latent
        changed = tuple(c for c in sizes.action if c.kind != "discrete")
        if not changed:
            raise ConfigError("a corrector adds to actions, and all actions of this robot are discrete")
        self.readout = ActionReadout(changed)
        channels, hidden = config.channels, config.hidden
        known = sizes.state + (sizes.chunk + 1) * sizes.action_size + 2 * FREQUENCIES
        self.seen = nn.Sequential(nn.LayerNorm(latent), nn.Linear(latent, hidden // 2))
        self.known = nn.Sequential(nn.Linear(known + hidden // 2, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        visual = 0
        if sizes.views:
            self.first = nn.Conv2d(3, channels, 5, 2, 2)
            self.second = nn.Conv2d(channels, 2 * channels, 3, 2, 1)
            self.scales = nn.Linear(hidden, sizes.views * 4 * channels)
            self.third = nn.Conv2d(2 * channels, config.features, 3, 1, 1)
            visual = sizes.views * 3 * config.features
        self.mix = nn.Sequential(nn.Linear(hidden + visual, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())
        self.out = nn.Linear(hidden, self.readout.size)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, images: Tensor, mask: Tensor, state: Tensor, chunk: Tensor, row: Tensor, latent: Tensor) -> Tensor:
        """The raw numbers (b, r) of the corrected actions, for `readout`.

        Args:
            images: (b, v, 3, h, w), uint8 or float in [0, 1], with `mask` (b, v).
            state: (b, s), normalized, of now.
            chunk: (b, k, a), normalized, as predicted earlier.
            row: (b,) int64, the row that is due.
            latent: (b, l), of that prediction.
        """
        length = chunk.shape[1]
        rows = (row[:, None] + torch.arange(length, device=row.device)).clamp(max=length - 1)
        left = chunk.gather(1, rows.unsqueeze(-1).expand(-1, -1, chunk.shape[2]))  # from the row that is due on
        known = self.known(torch.cat([state, left.flatten(1), left[:, 0], _waves(row, length), self.seen(latent)], -1))
        seen = [self._points(images, mask, known)] if self.sizes.views else []
        return self.encode(left[:, 0]) + self.out(self.mix(torch.cat([known, *seen], -1)))

    def decode(self, raw: Tensor, base: Tensor) -> Tensor:
        """Actions (b, a), normalized; discrete components are those of `base` (b, a)."""
        corrected = dict(zip((c.name for c in self.readout.action), self._decoded(raw), strict=True))
        return torch.cat([corrected.get(c.name, x) for c, x in parts(self.sizes.action, base)], -1)

    def errors(self, raw: Tensor, true: Tensor) -> Tensor:
        """Errors (b, r') of the corrected actions, by dimension; `true` (b, a) is normalized."""
        return self.readout.errors(raw, self._of_changed(true))

    def _decoded(self, raw: Tensor) -> tuple[Tensor, ...]:
        return self.readout.decode(raw).split([c.size for c in self.readout.action], -1)

    def _of_changed(self, actions: Tensor) -> Tensor:
        return torch.cat([x for c, x in parts(self.sizes.action, actions) if c.kind != "discrete"], -1)

    def encode(self, base: Tensor) -> Tensor:
        """The raw numbers by which the readout decodes `base` (b, a)."""
        return torch.cat([_encoded(c, x) for c, x in parts(self.readout.action, self._of_changed(base))], -1)

    def _points(self, images: Tensor, mask: Tensor, known: Tensor) -> Tensor:
        """Where the features are in each picture and how strong, (b, v · 3 · features); 0 for a camera that is missing."""
        rows, views = mask.shape
        if not bool(mask.any()):
            return known.new_zeros(rows, views * 3 * self.config.features)
        x = F.relu(self.second(F.relu(self.first(centered(images).flatten(0, 1)))))
        scale, shift = self.scales(known).view(rows * views, -1, 1, 1).chunk(2, 1)
        found = self.third(F.relu(x * (1 + scale) + shift))
        height, width = found.shape[-2:]
        weights = found.flatten(2).softmax(-1).view_as(found)
        across = (weights.sum(2) * torch.linspace(-1, 1, width, device=x.device)).sum(-1)
        down = (weights.sum(3) * torch.linspace(-1, 1, height, device=x.device)).sum(-1)
        strength = (weights * found).sum((2, 3))
        points = torch.cat([across, down, strength], -1).view(rows, views, -1)
        return points.masked_fill(~mask.unsqueeze(-1), 0.0).flatten(1)


def _waves(row: Tensor, length: int) -> Tensor:
    """Sine and cosine of the row's place in a chunk, at `FREQUENCIES` frequencies: (b, 2 · `FREQUENCIES`)."""
    phase = math.pi * row.float()[:, None] / length * 2 ** torch.arange(FREQUENCIES, device=row.device)
    return torch.cat([phase.sin(), phase.cos()], -1)


def _encoded(component: Component, x: Tensor) -> Tensor:
    return x.clamp(SURE, 1 - SURE).logit() if component.kind == "gripper" else x
