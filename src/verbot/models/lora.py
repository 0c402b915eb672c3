"""Low-rank adapters (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models") of a trained network."""

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
    """The parts of a network that get adapters, and those that are trained in full. Everything else is frozen.

    Args:
        rank: r of the two factors.
        alpha: the product of the factors is scaled by ``alpha / rank``.
        adapt: shell patterns of module names. Every matching `nn.Linear` gets an adapter, unless `train` covers it.
        convolutions: matching `nn.Conv2d` get adapters too.
        train: shell patterns of parameters that are trained in full: the head, and for example ``"vision.trunks.*"`` for
            convolutions or ``"language.embed.*"`` for word embeddings. If empty, the head gets adapters too.
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
    """A frozen layer with two small trainable factors: W + alpha / r · B A.

    `weight` is this sum, and `forward` uses it, so that merging does not change the output. For a convolution A maps to r
    channels with the same kernel and B is a 1×1 convolution; the rank is that of the matrix (o, i / groups · h · w).

    Args:
        base: the layer; its weight and bias are frozen.
        rank, alpha: as in `LoraConfig`.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, alpha: float):
        super().__init__()
        self.base, self.scale = base.requires_grad_(False), alpha / rank
        outputs, *inputs = base.weight.shape
        self.down = nn.Parameter(torch.empty(rank, math.prod(inputs)))  # A (r, i), of a convolution (r, i / groups · h · w)
        self.up = nn.Parameter(torch.zeros(outputs, rank))  # B (o, r), initially zero
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        if hasattr(base.weight, "lr_scale"):  # the factors have the learning rate of the weight
            self.down.lr_scale = self.up.lr_scale = base.weight.lr_scale  # type: ignore[attr-defined]

    @property
    def weight(self) -> Tensor:
        """(o, i), or (o, i / groups, h, w) for a convolution."""
        return self.base.weight + self.scale * (self.up @ self.down).view_as(self.base.weight)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.base, nn.Conv2d):
            return self.base._conv_forward(x, self.weight, self.bias)  # with its stride, padding and groups
        return F.linear(x, self.weight, self.bias)


def adapt(network: nn.Module, config: LoraConfig) -> None:
    """Freeze `network` in place, add the adapters of `config`, and keep its `train` parameters trainable.

    Parts that were frozen before stay frozen. The factors are drawn by torch's global generator. Raises `ConfigError` for a
    pattern without a match.
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
            raise ConfigError(
                f"lora.train has {pattern!r}, which matches no trainable parameter; the network's parts are {parts}"
            )
    kind = "linear layer or convolution" if config.convolutions else "linear layer"
    for pattern in config.adapt:
        if not any(fnmatchcase(name, pattern) for name in layers):
            raise ConfigError(
                f"lora.adapt has {pattern!r}, which matches no {kind} that is trainable and not trained in full; there are "
                f"{', '.join(sorted(layers)) or 'none'}"
            )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in trained)
    for name, layer in layers.items():
        if _fits(name, config.adapt):
            parent, child = holder(network, name)
            setattr(parent, child, Adapted(layer, config.rank, config.alpha))


def merged(network: nn.Module) -> dict[str, Tensor]:
    """The state dictionary of `network` with merged adapters, under the names before `adapt`."""
    state = dict(network.state_dict())
    for name, module in _adapted(network):
        for own in ("base.weight", "base.bias", "down", "up"):
            state.pop(f"{name}.{own}", None)
        state[f"{name}.weight"] = module.weight.detach()
        if module.bias is not None:
            state[f"{name}.bias"] = module.bias.detach()
    return state


def count(network: nn.Module) -> tuple[int, int]:
    """The number of trainable parameters, and the number of all parameters after merging."""
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    added = sum(module.down.numel() + module.up.numel() for _, module in _adapted(network))
    return trained, sum(p.numel() for p in network.parameters()) - added


def _adapted(network: nn.Module) -> Iterator[tuple[str, Adapted]]:
    return ((name, module) for name, module in network.named_modules() if isinstance(module, Adapted))


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
