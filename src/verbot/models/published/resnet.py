"""ResNet-18 and -34 (He et al. 2016) without their pooling and classifier, with the names of torchvision's weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError

DEPTHS = {"resnet18": (2, 2, 2, 2), "resnet34": (3, 4, 6, 3)}
WIDTHS = (64, 128, 256, 512)
NORMS = ("frozen", "batch", "group")


class FrozenBatchNorm(nn.Module):
    """Batch normalization whose statistics and weights never change."""

    def __init__(self, width: int):
        super().__init__()
        for name, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
            self.register_buffer(name, torch.full((width,), value))

    def forward(self, x: Tensor) -> Tensor:
        weight, bias, mean, var = (self.get_buffer(name) for name in ("weight", "bias", "running_mean", "running_var"))
        scale = weight * (var + 1e-5).rsqrt()
        return x * scale[:, None, None] + (bias - mean * scale)[:, None, None]


def normalization(kind: str, width: int) -> nn.Module:
    """``"frozen"``, ``"batch"``, or ``"group"`` with groups of 16 channels."""
    if kind == "frozen":
        return FrozenBatchNorm(width)
    return nn.BatchNorm2d(width) if kind == "batch" else nn.GroupNorm(max(width // 16, 1), width)


class ResNet(nn.Module):
    """Images (b, 3, h, w) to features (b, 512, h / 32, w / 32).

    Args:
        name: ``"resnet18"`` or ``"resnet34"``. Raises `ConfigError` for another.
        norm: see `normalization`.
    """

    def __init__(self, name: str, norm: str):
        super().__init__()
        if name not in DEPTHS:
            raise ConfigError(f"the vision_backbone is {name!r}; known: {', '.join(DEPTHS)}")
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = normalization(norm, 64)
        before = 64
        for number, (width, depth) in enumerate(zip(WIDTHS, DEPTHS[name], strict=True), 1):
            blocks = [
                BasicBlock(before if i == 0 else width, width, 2 if i == 0 and number > 1 else 1, norm) for i in range(depth)
            ]
            self.add_module(f"layer{number}", nn.Sequential(*blocks))
            before = width

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for number in range(1, 5):
            x = self.get_submodule(f"layer{number}")(x)
        return x


class BasicBlock(nn.Module):
    def __init__(self, before: int, width: int, stride: int, norm: str):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(before, width, 3, stride, 1, bias=False), normalization(norm, width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), normalization(norm, width)
        self.downsample = None
        if stride > 1 or before != width:
            self.downsample = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), normalization(norm, width))

    def forward(self, x: Tensor) -> Tensor:
        inside = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(inside + (x if self.downsample is None else self.downsample(x)))
