"""Layers with weights in bf16 or int8, for runtimes of torch, in place of linear and convolutional layers."""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FEWEST = 1024  # weights of a layer that is worth replacing


class HalfLayer(nn.Module):
    """A layer that computes in bf16; its input and output are fp32."""

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        self.layer = copy.deepcopy(layer).to(torch.bfloat16)

    @property
    def weight(self) -> Tensor:
        """In fp32, for modules that read the weights of a layer."""
        return self.layer.weight.float()

    @property
    def bias(self) -> Tensor | None:
        return None if self.layer.bias is None else self.layer.bias.float()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.to(torch.bfloat16)).float()


class WholeLayer(nn.Module):
    """A layer whose weights are stored in int8, with a scale for each output channel; it computes in fp32."""

    stored: Tensor
    scale: Tensor

    def __init__(self, layer: nn.Linear | nn.Conv2d):
        super().__init__()
        values = layer.weight.detach()
        scale = (values.abs().flatten(1).amax(1) / 127).clamp(min=1e-12).view(-1, *[1] * (values.ndim - 1))
        self.register_buffer("stored", (values / scale).round().clamp(-127, 127).to(torch.int8))
        self.register_buffer("scale", scale)
        self.bias = None if layer.bias is None else nn.Parameter(layer.bias.detach().clone(), requires_grad=False)
        self.convolution: Any = None
        if isinstance(layer, nn.Conv2d):
            self.convolution = (layer.stride, layer.padding, layer.dilation, layer.groups)

    @property
    def weight(self) -> Tensor:
        return self.stored.float() * self.scale

    def forward(self, x: Tensor) -> Tensor:
        if self.convolution is None:
            return F.linear(x, self.weight, self.bias)
        return F.conv2d(x, self.weight, self.bias, *self.convolution)


def in_precision(module: nn.Module, precision: str) -> nn.Module:
    """A copy of `module` in ``"bf16"`` or ``"int8-weights"``; the first convolutions, which see colors, stay in fp32."""
    kind = {"bf16": HalfLayer, "int8-weights": WholeLayer}.get(precision)
    made = copy.deepcopy(module)
    if kind is None:
        return made
    for parent in list(made.modules()):
        if isinstance(parent, HalfLayer | WholeLayer):
            continue
        for name, child in parent.named_children():
            plain = type(child) is nn.Linear or (type(child) is nn.Conv2d and child.in_channels != 3)
            if plain and child.weight.numel() >= FEWEST:  # type: ignore[operator]
                setattr(parent, name, kind(child))  # type: ignore[arg-type]
    return made
