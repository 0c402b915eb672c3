"""Low-rank adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") of a network that has learned."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.flat_names import holder


@dataclass(frozen=True)
class LoraConfig:
    """What of a network is adapted, and what is trained in full; everything else stays as it is.

    Args:
        rank: r of the two factors.
        alpha: what they add is scaled by ``alpha / rank``.
        adapt: patterns of the names of modules, as a shell's; of those that match, every `nn.Linear` that `train` leaves gets an
            adapter.
        convolutions: so does every `nn.Conv2d`.
        train: patterns of the names of parameters that are trained in full, whatever they belong to: the head, and for example
            ``"vision.trunks.*"`` for convolutions or ``"language.embed.*"`` for words. Empty adapts the head as well.
    """

    rank: int = 8
    alpha: float = 16.0
    adapt: tuple[str, ...] = ("*",)
    convolutions: bool = False
    train: tuple[str, ...] = ("head.*",)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0:
            raise ConfigError(f"lora needs a rank of at least 1 and an alpha above 0; got {self.rank} and {self.alpha:g}")


class Adapted(nn.Module):
    """A layer that stays as it is, and beside it two small factors that learn: W + alpha / r · B A.

    `weight` is that sum, for whoever reads it, and what `forward` multiplies with: so merging changes nothing but memory. Of a
    convolution A is one to r channels with the same kernel, and B one of 1×1, so that the rank is that of the matrix
    (o, i / groups · h · w).

    Args:
        base: its weight and bias are frozen.
        rank, alpha: as of `LoraConfig`.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        outputs, *inputs = base.weight.shape
        self.down = nn.Parameter(torch.empty(rank, math.prod(inputs)))  # A (r, i), of a convolution (r, i / groups · h · w)
        self.up = nn.Parameter(torch.zeros(outputs, rank))  # B (o, r); nothing is added at first
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        if hasattr(base.weight, "lr_scale"):  # the factors learn at the rate that the weight would
            self.down.lr_scale = self.up.lr_scale = base.weight.lr_scale  # type: ignore[attr-defined]

    @property
    def weight(self) -> Tensor:
        """(o, i), of a convolution (o, i / groups, h, w)."""
        return self.base.weight + self.scale * (self.up @ self.down).view_as(self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.base, nn.Conv2d):
            return self.base._conv_forward(x, self.weight, self.bias)  # with its stride, padding and groups
        return F.linear(x, self.weight, self.bias)


def adapt(network: nn.Module, config: LoraConfig) -> None:
    """In place: freeze `network`, adapt what `config` names and leave trainable what it says. Frozen parts stay frozen.

    The factors are drawn by torch's global generator. Raises `ConfigError` for a pattern that fits nothing.
    """
    learned = [name for name, p in network.named_parameters() if p.requires_grad]
    trained = {name for name in learned if _fits(name, config.train)}
    kinds = (nn.Linear, nn.Conv2d) if config.convolutions else nn.Linear
    layers = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, kinds) and f"{name}.weight" in learned and f"{name}.weight" not in trained
    }
    for pattern in config.train:
        if not any(fnmatchcase(name, pattern) for name in learned):
            parts = ", ".join(sorted({name.partition(".")[0] for name in learned}))
            raise ConfigError(f"lora.train has {pattern!r}, which fits no parameter that learns; the network's parts are {parts}")
    kind = "linear layer or convolution" if config.convolutions else "linear layer"
    for pattern in config.adapt:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ConfigError(
                f"lora.adapt has {pattern!r}, which fits no {kind} that learns and is not trained in full; there are "
                f"{', '.join(sorted(layers)) or 'none'}"
            )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    for name, layer in layers.items():
        if _fits(name, config.adapt):
            parent, child = holder(network, name)
            setattr(parent, child, Adapted(layer, config.rank, config.alpha))


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The state of `network` with every adapter added to its weight, under the names that it had before `adapt`."""
    state = dict(network.state_dict())
    for name, module in _adapted(network):
        for own in ("base.weight", "base.bias", "down", "up"):
            state.pop(f"{name}.{own}", None)
        state[f"{name}.weight"] = module.weight.detach()
        if module.bias is not None:
            state[f"{name}.bias"] = module.bias.detach()
    return state


def count(network: nn.Module) -> tuple[int, int]:
    """How many numbers are trained, and how many there are once adapters are merged."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    added = sum(module.down.numel() + module.up.numel() for _, module in _adapted(network))
    return trained, sum(p.numel() for p in network.parameters()) - added


def _adapted(network: nn.Module) -> Iterator[tuple[str, Adapted]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, Adapted))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
