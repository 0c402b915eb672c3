"""A compact decoder that computes what Llama, Qwen2, Qwen3 and Gemma do. Its parameters have their published names."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from verbot.models.trunks.adapters import applied
from verbot.models.trunks.architecture import DecoderConfig, RotaryScaling
from verbot.models.trunks.base import KeyValueCache, TrunkOutput

Rotation = tuple[Tensor, Tensor]  # cosines and sines (b, 1, n, h) of the positions
KeyValuePair = tuple[Tensor, Tensor]  # keys and values (b, g, m, h)
Adapters = nn.ModuleDict | None  # of one block
GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
}


class LanguageDecoder(nn.Module):
    """Embedding, blocks, final norm and output layer; see `DecoderConfig`.

    Args:
        checkpointing: blocks compute their activations again in the backward pass, with the same gradients.
    """

    def __init__(self, config: DecoderConfig, checkpointing: bool = False):
        super().__init__()
        self.config, self.checkpointing = config, checkpointing
        if config.vocabulary:
            self.embed_tokens = nn.Embedding(config.vocabulary, config.width)
            if not config.tied:
                self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)
        self.layers = nn.ModuleList(DecoderBlock(config) for _ in range(config.depth))
        self.norm = RMSNorm(config.width, config)

    def embed(self, ids: Tensor) -> Tensor:
        """The scaled embeddings (b, n, d) of ids (b, n)."""
        x: Tensor = self.embed_tokens(ids)
        # The factor is rounded to the dtype of the weights, as in the published model.
        return x if self.config.embedding_scale == 1 else x * x.new_tensor(self.config.embedding_scale)

    def forward(
        self,
        x: Tensor,
        allowed: Tensor,
        positions: Tensor,
        cache: KeyValueCache | None = None,
        adapters: Sequence[nn.ModuleDict] | None = None,
    ) -> TrunkOutput:
        """See `LanguageTrunk.forward`. A cache of another decoder may be given, if its heads have the same shapes.

        `adapters` are those of each block, see `verbot.models.trunks.adapters`.
        """
        given, x = x.dtype, x.to(self.norm.weight.dtype)
        rotation = rotary(positions, self.config.head_width, self.config.theta, self.config.scaling, x.dtype)
        some = allowed.any(-1, keepdim=True)  # (b, n, 1)
        mask = (allowed | ~some).unsqueeze(1)  # (b, 1, n, m)
        layers, keys, values = [], [], []
        for index, layer in enumerate(self.layers):
            layers.append(x)
            past = None if cache is None else (cache.keys[index], cache.values[index])
            own = None if adapters is None else adapters[index]
            if self.checkpointing and torch.is_grad_enabled():
                x, (k, v) = checkpoint(layer, x, mask, some, rotation, past, own, use_reentrant=False)
            else:
                x, (k, v) = layer(x, mask, some, rotation, past, own)
            keys.append(k)
            values.append(v)
        return TrunkOutput(self.norm(x).to(given), tuple(layers), KeyValueCache(tuple(keys), tuple(values)))

    def logits(self, hidden: Tensor) -> Tensor:
        """(b, n, v) float32 of hidden states (b, n, d) after the final norm."""
        weight = self.embed_tokens.weight if self.config.tied else self.lm_head.weight
        return F.linear(hidden.to(weight.dtype), weight).float()

    @torch.no_grad()
    def initialize(self) -> None:
        """Draw all weights by torch's global generator: logits of unit variance, and blocks that change their input little."""
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                fan = module.weight.shape[1]
                last = name.endswith(("o_proj", "down_proj"))
                nn.init.normal_(module.weight, std=fan**-0.5 / (math.sqrt(2 * self.config.depth) if last else 1))
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)


class RMSNorm(nn.Module):
    """Division by the root mean square of the features, computed in float32 (Zhang & Sennrich 2019)."""

    def __init__(self, width: int, config: DecoderConfig):
        super().__init__()
        self.epsilon, self.offset = config.epsilon, config.offset_norm
        self.weight = nn.Parameter(torch.zeros(width) if self.offset else torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.epsilon)
        if self.offset:  # Gemma rounds after the product, the others before
            return (wide * (1 + self.weight.float())).to(x.dtype)
        return self.weight * wide.to(x.dtype)


class DecoderBlock(nn.Module):
    """A pre-norm block: attention and gated MLP (Shazeer 2020).

    It is called with x (b, n, d), the mask (b, 1, n, m) with a key for every query, whether a query has any (b, n, 1), the
    rotation of its positions, keys and values of the tokens before, and its adapters. It returns x, and keys and values of all m.
    """

    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(config.width, config), RMSNorm(config.width, config)
        self.self_attn, self.mlp = GroupedAttention(config), GatedMLP(config)

    def forward(
        self, x: Tensor, mask: Tensor, some: Tensor, rotation: Rotation, past: KeyValuePair | None, own: Adapters = None
    ) -> tuple[Tensor, KeyValuePair]:
        read, pair = self.self_attn(self.input_layernorm(x), mask, some, rotation, past, own)
        x = x + read
        return x + self.mlp(self.post_attention_layernorm(x), own), pair


class GroupedAttention(nn.Module):
    """Attention whose query heads share fewer heads of keys and values (Ainslie et al. 2023), with rotary positions."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        h, bias = config.head_width, config.bias
        self.head_width = h
        self.q_proj = nn.Linear(config.width, config.heads * h, bias=bias)
        self.k_proj = nn.Linear(config.width, config.key_heads * h, bias=bias)
        self.v_proj = nn.Linear(config.width, config.key_heads * h, bias=bias)
        self.o_proj = nn.Linear(config.heads * h, config.width, bias=False)
        if config.head_norm:
            self.q_norm, self.k_norm = RMSNorm(h, config), RMSNorm(h, config)
        self.head_norm, self.share = config.head_norm, config.heads // config.key_heads

    def forward(
        self, x: Tensor, mask: Tensor, some: Tensor, rotation: Rotation, past: KeyValuePair | None, own: Adapters = None
    ) -> tuple[Tensor, KeyValuePair]:
        parts = {"q_proj": self.q_proj, "k_proj": self.k_proj, "v_proj": self.v_proj}
        q, k, v = (self._split(applied(part, x, own, name)) for name, part in parts.items())
        if self.head_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotated(q, rotation), rotated(k, rotation)
        if past is not None:
            k, v = torch.cat([past[0].to(k.dtype), k], 2), torch.cat([past[1].to(v.dtype), v], 2)
        read = F.scaled_dot_product_attention(q, self._shared(k), self._shared(v), attn_mask=mask)  # (b, heads, n, h)
        joined = applied(self.o_proj, read.transpose(1, 2).flatten(2), own, "o_proj")
        return joined * some.to(read.dtype), (k, v)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)

    def _shared(self, x: Tensor) -> Tensor:
        """(b, heads, m, h) of (b, g, m, h)"""
        return x if self.share == 1 else x.unsqueeze(2).expand(-1, -1, self.share, -1, -1).flatten(1, 2)


class GatedMLP(nn.Module):
    def __init__(self, config: DecoderConfig):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(config.width, config.hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(config.hidden, config.width, bias=False)
        self.gate = GATES[config.activation]

    def forward(self, x: Tensor, own: Adapters = None) -> Tensor:
        gate = self.gate(applied(self.gate_proj, x, own, "gate_proj"))
        return applied(self.down_proj, gate * applied(self.up_proj, x, own, "up_proj"), own, "down_proj")


def rotary(positions: Tensor, head_width: int, theta: float, scaling: RotaryScaling | None, dtype: torch.dtype) -> Rotation:
    """Cosines and sines (b, 1, n, h) of positions (b, n); the two halves of a head turn together (Su et al. 2021)."""
    exponents = torch.arange(0, head_width, 2, dtype=torch.float32, device=positions.device) / head_width
    rates = theta**-exponents  # (h / 2)
    if scaling is not None:
        rates = _scaled(rates, scaling)
    angles = (positions.unsqueeze(-1).float() * rates).repeat(1, 1, 2).unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def _scaled(rates: Tensor, scaling: RotaryScaling) -> Tensor:
    turns = scaling.trained * rates / (2 * math.pi)  # of each wave over the positions before scaling
    kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    return rates * (kept + (1 - kept) / scaling.factor)


def rotated(x: Tensor, rotation: Rotation) -> Tensor:
    """Queries or keys (b, g, n, h), turned by their positions."""
    cosines, sines = rotation
    first, second = x.chunk(2, -1)
    return (x * cosines + torch.cat([-second, first], -1) * sines).to(x.dtype)
