"""Pruning: the smallest weights of each layer become zero (Han et al. 2015), one by one or by whole output channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from verbot.errors import ConfigError

METHODS = ("l1", "l1-channels")


@dataclass(frozen=True)
class Pruning:
    """Which weights become zero.

    Args:
        method: ``"l1"`` takes the smallest weights of a layer, ``"l1-channels"`` its output channels of the smallest L1 norm.
        share: of each layer, above 0 and below 1.

    Raises `ConfigError` for another method or share.

    Example:
        >>> Pruning.parse("l1:0.2")
        Pruning(method='l1', share=0.2)
    """

    method: str
    share: float

    def __post_init__(self) -> None:
        if self.method not in METHODS or not 0 < self.share < 1:
            raise ConfigError(f"pruning is {self}; expected {' or '.join(METHODS)} and a share between 0 and 1, such as l1:0.2")

    def __str__(self) -> str:
        return f"{self.method}:{self.share:g}"

    @staticmethod
    def parse(text: str) -> Pruning:
        method, _, share = text.partition(":")
        try:
            return Pruning(method, float(share))
        except ValueError as error:
            if isinstance(error, ConfigError):
                raise
            raise ConfigError(f"pruning is {text!r}; expected a method and a share, such as l1:0.2") from error


@torch.no_grad()
def prune(network: nn.Module, pruning: Pruning) -> dict[str, Any]:
    """Set weights of linear and convolutional layers to zero; says of how many. Shapes do not change.

    The first convolutions, which see colors, stay whole, and so does each layer with fewer than 64 weights.
    """
    zero = total = 0
    layers = list[str]()
    for name, module in network.named_modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        weight = module.weight
        total += weight.numel()
        if weight.numel() < 64 or (isinstance(module, nn.Conv2d) and module.in_channels == 3):
            continue
        size = weight.abs() if pruning.method == "l1" else weight.abs().flatten(1).sum(1)
        count = int(pruning.share * size.numel())
        if count:
            chosen = size.flatten().topk(count, largest=False).indices
            (weight.view(-1) if pruning.method == "l1" else weight)[chosen] = 0
            if pruning.method == "l1-channels" and module.bias is not None:
                module.bias[chosen] = 0
        zero += int((weight == 0).sum())
        layers.append(name)
    return {"method": pruning.method, "share": pruning.share, "zero": zero, "weights": total, "layers": len(layers)}
