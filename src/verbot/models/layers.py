"""Attention that honors masks, and the few layers that several parts share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.tokens import TokenGroup


class Attention(nn.Module):
    """Multi-head attention of `queries` (b, m, e) to `keys` (b, n, e) under `mask` (b, n), True = may be attended to.

    A row whose keys are all masked gives zeros, not NaN. Source: Vaswani et al. 2017, eq. 1.
    """

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ConfigError(f"width {width} does not divide into {heads} heads")
        self.heads = heads
        self.query, self.pair, self.out = nn.Linear(width, width), nn.Linear(width, 2 * width), nn.Linear(width, width)

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        q = self._split(self.query(queries))  # (b, heads, m, e / heads)
        k, v = map(self._split, self.pair(keys).chunk(2, -1))  # (b, heads, n, e / heads)
        some = mask.any(-1, keepdim=True)  # (b, 1)
        allowed = (mask | ~some)[:, None, None, :]  # (b, 1, 1, n)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
        return self.out(read.transpose(1, 2).flatten(2)) * some.unsqueeze(-1).to(read.dtype)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """A pre-norm transformer block. With `keys` it attends to them, otherwise to its own tokens."""

    def __init__(self, width: int, heads: int, expansion: int = 2):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.feed = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width)
        )

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor | None = None) -> Tensor:
        normed = self.norm(x)
        x = x + self.attention(normed, normed if keys is None else keys, mask)
        return x + self.feed(x)


class AttentionPool(nn.Module):
    """One learned query attends to the valid tokens of a group: (b, n, e) → (b, e)."""

    def __init__(self, width: int, heads: int = 4):
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, width) / math.sqrt(width))
        self.norm, self.attention = nn.LayerNorm(width), Attention(width, heads)

    def forward(self, group: TokenGroup) -> Tensor:
        tokens = self.norm(group.tokens)
        return self.attention(self.query.expand(len(tokens), -1, -1), tokens, group.mask).squeeze(1)


class First(nn.Module):
    """The only token of a group: (b, 1, e) → (b, e)."""

    def forward(self, group: TokenGroup) -> Tensor:
        return group.tokens[:, 0]


def reader(width: int, count: int) -> nn.Module:
    """What turns a group of `count` tokens into one vector (b, e)."""
    return First() if count == 1 else AttentionPool(width)


def sinusoid(position: Tensor, width: int, longest: float = 1e4) -> Tensor:
    """Sine and cosine features (…, width) of real positions (…,), periods from 2π to 2π·`longest`."""
    rate = torch.exp(-math.log(longest) * torch.arange(width // 2, device=position.device) / max(width // 2 - 1, 1))
    angle = position.unsqueeze(-1) * rate
    return torch.cat([angle.sin(), angle.cos()], -1)


def pixel_grid(height: int, width: int) -> Tensor:
    """The centers of an image's cells in [-1, 1], x right and y down, row by row: (height·width, 2)."""
    y = (torch.arange(height) + 0.5) * 2 / height - 1
    x = (torch.arange(width) + 0.5) * 2 / width - 1
    return torch.stack([x.repeat(height), y.repeat_interleave(width)], -1)


def masked_mean(errors: Tensor, mask: Tensor) -> Tensor:
    """The mean of `errors` (…, d) over the valid places of `mask` (…); zero, with zero gradient, where there are none."""
    valid = mask.unsqueeze(-1)
    return errors.masked_fill(~valid, 0).sum() / (valid.sum() * errors.shape[-1]).clamp(min=1)


def centered(images: Tensor) -> Tensor:
    """Images, uint8 or float in [0, 1], to [-1, 1]."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images.mul(2).sub_(1)
