"""Low-rank adapters beside the layers of a decoder whose weights stay as they are (Hu et al. 2021)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LowRank(nn.Module):
    """What is added to the output of a layer: alpha / r · B A x, initially zero. It never forms a matrix of the layer's size."""

    def __init__(self, inputs: int, outputs: int, rank: int, alpha: float):
        super().__init__()
        self.scale = alpha / rank
        self.down, self.up = nn.Parameter(torch.empty(rank, inputs)), nn.Parameter(torch.zeros(outputs, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.linear(x.to(self.down.dtype), self.down), self.up).mul(self.scale).to(x.dtype)


def block_adapters(block: nn.Module, rank: int, alpha: float) -> nn.ModuleDict:
    """An adapter for each linear layer of a block, by the last part of its name."""
    layers = ((name.rpartition(".")[2], module) for name, module in block.named_modules() if isinstance(module, nn.Linear))
    return nn.ModuleDict({name: LowRank(layer.in_features, layer.out_features, rank, alpha) for name, layer in layers})


def applied(layer: nn.Module, x: Tensor, adapters: nn.ModuleDict | None, name: str) -> Tensor:
    """The output of `layer`, called `name`, with its adapter if there is one."""
    read: Tensor = layer(x)
    return read if adapters is None else read + adapters[name](x)
