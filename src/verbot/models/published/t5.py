"""The encoder of T5 (Raffel et al. 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class T5Config:
    """The architecture of an encoder.

    Args:
        tokens, width, depth, heads, hidden: size of the vocabulary, d, blocks, heads, and the width of the MLP.
        inner: width of all heads together.
        buckets: distances that differ. farthest: distances from which all are one.
    """

    tokens: int
    width: int
    depth: int
    heads: int
    hidden: int
    inner: int
    buckets: int = 32
    farthest: int = 128
    epsilon: float = 1e-6


class T5Encoder(nn.Module):
    """Hidden states (b, n, d) of token ids (b, n) with their mask (b, n)."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.config = config
        self.shared = nn.Embedding(config.tokens, config.width)
        self.distances = nn.Embedding(config.buckets, config.heads)
        self.blocks = nn.ModuleList(T5Block(config) for _ in range(config.depth))
        self.norm = nn.RMSNorm(config.width, config.epsilon)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x: Tensor = self.shared(ids)
        places = torch.arange(ids.shape[1], device=ids.device)
        bias = self.distances(distance_buckets(places[None] - places[:, None], self.config)).permute(2, 0, 1)  # (h, n, n)
        bias = bias + torch.zeros_like(mask, dtype=bias.dtype).masked_fill(~mask, torch.finfo(bias.dtype).min)[:, None, None]
        for block in self.blocks:
            x = block(x, bias)
        x = self.norm(x)
        return x


class T5Block(nn.Module):
    def __init__(self, config: T5Config):
        super().__init__()
        d = config.width
        self.heads = config.heads
        self.norm1, self.norm2 = nn.RMSNorm(d, config.epsilon), nn.RMSNorm(d, config.epsilon)
        self.q, self.k, self.v = (nn.Linear(d, config.inner, bias=False) for _ in range(3))
        self.o = nn.Linear(config.inner, d, bias=False)
        self.wi, self.wo = nn.Linear(d, config.hidden, bias=False), nn.Linear(config.hidden, d, bias=False)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0)
        x = x + self.o(read.transpose(1, 2).flatten(2))
        added: Tensor = self.wo(F.relu(self.wi(self.norm2(x))))
        return x + added


def distance_buckets(distance: Tensor, config: T5Config) -> Tensor:
    """The bucket of each distance from query to key: half of them for each direction, from some distance on logarithmic."""
    half = config.buckets // 2
    exact = half // 2
    size = distance.abs()
    far = (size.float().clamp(min=1) / exact).log() / math.log(config.farthest / exact) * (half - exact)
    bucket = torch.where(size < exact, size, (exact + far.long()).clamp(max=half - 1))
    return bucket + half * (distance > 0)
