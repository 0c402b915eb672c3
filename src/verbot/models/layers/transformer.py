"""Masked attention, transformer blocks, and layers that several parts use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.tokens import Sizes, TokenGroup

TEXT_KINDS = ("words", "sentence")  # all other kinds are observations, with tokens for each frame
MARK = 0.5  # standard deviation of initial type and position embeddings


class Attention(nn.Module):
    """Multi-head attention of `queries` (b, m, e) to `keys` (b, n, e). The mask is True where attention is allowed.

    The mask is (b, n), the same for all queries, or (b, m, n). A query that may attend to nothing gets zeros, not NaN. Weights
    can be recorded with `verbot.models.layers.attention_maps`. Source: Vaswani et al. 2017, eq. 1.
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
        allowed, some = _permission(mask)
        read = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed.unsqueeze(1))
        return self.out(read.transpose(1, 2).flatten(2)) * some.to(read.dtype)

    def weights(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """The attention weights (b, heads, m, n); each row sums to one, or to zero if no attention is allowed."""
        q, k = self._split(self.query(queries)), self._split(self.pair(keys).chunk(2, -1)[0])
        allowed, some = _permission(mask)
        scores = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(~allowed.unsqueeze(1), -math.inf)
        return scores.softmax(-1) * some.unsqueeze(1).to(q.dtype)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _permission(mask: Tensor) -> tuple[Tensor, Tensor]:
    """The keys allowed for each query, (b, m or 1, n), all if there are none; and whether there are any, (b, m or 1, 1)."""
    mask = mask.unsqueeze(1) if mask.ndim == 2 else mask
    some = mask.any(-1, keepdim=True)
    return mask | ~some, some


@torch.no_grad()
def sharpen(module: nn.Module, factor: float = 2.0) -> None:
    """Scale the query and key weights of every attention in `module`, so that learned queries differ from the start.

    With the default initialization every query attends almost uniformly.
    """
    for part in module.modules():
        if isinstance(part, Attention):
            part.query.weight.mul_(factor)
            part.pair.weight[: part.query.out_features].mul_(factor)


def until(frames: Tensor, mask: Tensor) -> Tensor:
    """The causal mask (b, n, n): a token of frame ``frames[i]`` (n,) attends to the valid tokens (b, n) up to its own frame."""
    return mask.unsqueeze(1) & (frames <= frames.unsqueeze(1))


class Block(nn.Module):
    """A pre-norm transformer block: cross-attention if `keys` are given, otherwise self-attention."""

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
        return self.attention(self.query.expand(tokens.shape[0], -1, -1), tokens, group.mask).squeeze(1)


class First(nn.Module):
    """The only token of a group: (b, 1, e) → (b, e)."""

    def forward(self, group: TokenGroup) -> Tensor:
        return group.tokens[:, 0]


class SideBySide(nn.Module):
    """An MLP with two wide hidden layers on the concatenated tokens of a group: (b, n, e) → (b, e).

    An attention pool averages tokens; here each coordinate of each token has weights of its own.
    """

    def __init__(self, width: int, count: int):
        super().__init__()
        hidden = 4 * width
        self.layers = nn.Sequential(
            nn.Linear(count * width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, width)
        )

    def forward(self, group: TokenGroup) -> Tensor:
        return self.layers(flat(group))


def reader(width: int, count: int) -> nn.Module:
    """A module that maps a group of `count` tokens (0: variable number) to one vector (b, e)."""
    if count == 1:
        return First()
    return SideBySide(width, count) if count else AttentionPool(width)


def flat(group: TokenGroup) -> Tensor:
    """The concatenated tokens (b, n·e); masked ones are zero."""
    return group.tokens.masked_fill(~group.mask.unsqueeze(-1), 0).flatten(1)


class FusedToken(nn.Module):
    """An MLP from concatenated vectors (b, d), `inputs` numbers in all, to one fused token (b, 1, hidden)."""

    def __init__(self, inputs: int, hidden: int):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.GELU())

    def forward(self, *vectors: Tensor) -> TokenGroup:
        x = self.layers(torch.cat(vectors, -1)).unsqueeze(1)
        return TokenGroup(x, x.new_ones(x.shape[0], 1, dtype=torch.bool), "fused")


class Overview(nn.Module):
    """An MLP from `places` concatenated tokens (b, places·e) to `count` tokens of the same width (b, count, e)."""

    def __init__(self, places: int, count: int, width: int, hidden: int = 256):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(places * width, hidden), nn.GELU(), nn.Linear(hidden, count * width))
        self.count, self.norm = count, nn.LayerNorm(width)

    def forward(self, x: Tensor) -> TokenGroup:
        tokens = self.norm(self.layers(x).unflatten(-1, (self.count, -1)))
        return TokenGroup(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.bool), "overview")


def text_groups(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """The groups of words and sentence."""
    return [g for g in groups if g.kind in TEXT_KINDS]


def observation_groups(groups: Sequence[TokenGroup]) -> list[TokenGroup]:
    """The groups of observation tokens: all except words and sentence."""
    return [g for g in groups if g.kind not in TEXT_KINDS]


def observations_by_frame(groups: Sequence[TokenGroup], history: int) -> TokenGroup:
    """The observation tokens with frames as rows: (b·t, n / t, e), the frames of a row in order, oldest first."""

    def frames(x: Tensor) -> Tensor:
        return x.unflatten(1, (history, -1))

    tokens = torch.cat([frames(g.tokens) for g in observation_groups(groups)], 2)  # (b, t, n / t, e)
    mask = torch.cat([frames(g.mask) for g in observation_groups(groups)], 2)
    return TokenGroup(tokens.flatten(0, 1), mask.flatten(0, 1), "seen")


def observation_counts(counts: Mapping[str, int], history: int = 1) -> dict[str, int]:
    """The number of observation tokens per frame, by kind.

    Raises `ConfigError` if the number of tokens of a kind is not a multiple of the number of frames.
    """
    found = {kind: n for kind, n in counts.items() if kind not in TEXT_KINDS}
    for kind, n in found.items():
        if n % history:
            raise ConfigError(f"{n} {kind} tokens cannot lie frame by frame in {history} frames")
    return {kind: n // history for kind, n in found.items()}


class TypePositionEmbedding(nn.Module):
    """Normalizes all kinds of tokens to one scale, and adds embeddings of their type, their position in the frame and the frame.

    Encoders return tokens of very different norm; without normalization attention would ignore the smaller ones. All words
    share one embedding, because their number varies.

    Args:
        counts: number of tokens over all frames, by kind.
    """

    def __init__(self, sizes: Sizes, counts: Mapping[str, int]):
        super().__init__()
        found = {"words": 1, "sentence": 1, **observation_counts(counts, sizes.history)}
        self.norms = nn.ModuleDict({kind: nn.LayerNorm(sizes.width) for kind in found})
        self.kinds = nn.ParameterDict({kind: nn.Parameter(torch.randn(n, sizes.width) * MARK) for kind, n in found.items()})
        history = sizes.history
        self.times = nn.Parameter(torch.randn(history, 1, sizes.width) * MARK) if history > 1 else None

    def forward(self, groups: Sequence[TokenGroup]) -> list[TokenGroup]:
        for group in groups:
            if group.kind not in self.kinds:
                raise ConfigError(f"a fusion built for {', '.join(self.kinds)} got tokens of kind {group.kind!r}")
        return [TokenGroup(self.norms[g.kind](g.tokens) + self._embedding(g.kind), g.mask, g.kind) for g in groups]

    def _embedding(self, kind: str) -> Tensor:
        own = self.kinds[kind]
        return own if kind in TEXT_KINDS or self.times is None else (own + self.times).flatten(0, 1)


class CrossBlock(nn.Module):
    """Pre-norm cross-attention to `keys`, self-attention, and a feed-forward layer."""

    def __init__(self, width: int, heads: int, expansion: int = 2):
        super().__init__()
        self.ask, self.cross = nn.LayerNorm(width), Attention(width, heads)
        self.own = Block(width, heads, expansion)

    def forward(self, x: Tensor, mask: Tensor, keys: Tensor, keys_mask: Tensor) -> Tensor:
        return self.own(x + self.cross(self.ask(x), keys, keys_mask), mask)


class TokenLearner(nn.Module):
    """Compresses tokens (b, n, e) to `count` tokens (b, count, e), each a weighted mean of all valid ones.

    The weights are a softmax over the tokens, with logits from a small MLP. Source: Ryoo et al. 2021, version 1.1.
    """

    def __init__(self, width: int, count: int, hidden: int = 64):
        super().__init__()
        self.weigh = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, count))

    def forward(self, group: TokenGroup) -> TokenGroup:
        some = group.mask.any(1, keepdim=True)  # (b, 1)
        readable = (group.mask | ~some).unsqueeze(-1)
        tokens = group.tokens.masked_fill(~group.mask.unsqueeze(-1), 0)
        weights = self.weigh(tokens).masked_fill(~readable, -math.inf).softmax(1)  # (b, n, count)
        tokens = weights.transpose(1, 2) @ tokens
        return TokenGroup(tokens, some.expand(-1, tokens.shape[1]), group.kind)


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
    """The mean of `errors` (…, d) over the valid entries of `mask` (…); zero, with zero gradient, if there are none."""
    valid = mask.unsqueeze(-1)
    return errors.masked_fill(~valid, 0).sum() / (valid.sum() * errors.shape[-1]).clamp(min=1)


def centered(images: Tensor) -> Tensor:
    """Images, uint8 or float in [0, 1], to [-1, 1]."""
    return images.float().div_(127.5).sub_(1) if images.dtype == torch.uint8 else images.mul(2).sub_(1)
