"""SmolVLA (Shukor et al. 2025): SmolVLM and an action expert that reads its keys and values, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.encoders.vision.published_towers import PublishedTower, TowerConfig
from verbot.models.published.base import NetworkInputs, PublishedNetwork
from verbot.models.published.flow import drawn, flow_allowed, flow_loss, integrate, time_embedding
from verbot.models.trunks.architecture import DecoderConfig
from verbot.models.trunks.base import KeyValueCache
from verbot.models.trunks.decoder import (
    GatedMLP,
    GroupedAttention,
    KeyValuePair,
    LanguageDecoder,
    RMSNorm,
    Rotation,
    rotary,
    rotated,
)  # fmt: skip


@dataclass(frozen=True)
class SmolConfig:
    """The architecture of a SmolVLA.

    Args:
        vision, language, expert: of its three transformers, of which the expert has no vocabulary.
        shuffle: so many rows and columns of patches become one token.
        every: every so many layers, from the first, the expert's tokens also read each other; in the others only the prefix.
        chunk, action, state: k actions, and the padded numbers of an action and a state.
        steps: Euler steps of a prediction.
        shortest, longest: periods of the embedding of the time.
    """

    vision: TowerConfig
    language: DecoderConfig
    expert: DecoderConfig
    shuffle: int
    every: int
    chunk: int
    action: int
    state: int
    steps: int = 10
    shortest: float = 4e-3
    longest: float = 4.0


class SmolNetwork(PublishedNetwork):
    """See `SmolConfig`. Inputs are ``images`` (b, v, 3, s, s) in [−1, 1], ``images_mask`` (b, v), ``tokens`` and ``tokens_mask``
    (b, n), and the padded ``state`` (b, s)."""

    def __init__(self, config: SmolConfig):
        super().__init__()
        self.config, width, expert = config, config.language.width, config.expert.width
        self.vision = PublishedTower(config.vision)
        self.connector = nn.Linear(config.vision.width * config.shuffle**2, width, bias=False)
        self.language = LanguageDecoder(config.language)
        self.expert = SmolExpert(config)
        self.state_proj = nn.Linear(config.state, width)
        self.action_in_proj, self.action_out_proj = nn.Linear(config.action, expert), nn.Linear(expert, config.action)
        self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * expert, expert), nn.Linear(expert, expert)

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        noise = drawn((self.config.chunk, self.config.action), generators, inputs["tokens"].device)
        return self.denoised(inputs, noise)

    def denoised(self, inputs: NetworkInputs, noise: Tensor) -> Tensor:
        """Actions (b, k, a) of noise of the same shape."""
        cache, mask = self.prefix(inputs)
        return integrate(lambda x, t: self.velocity(x, t, cache, mask), noise, self.config.steps)

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The flow-matching loss for normalized, padded actions (b, k, a)."""
        cache, seen = self.prefix(inputs)
        return {"action": flow_loss(lambda x, t: self.velocity(x, t, cache, seen), actions, mask, generator)}

    def prefix(self, inputs: NetworkInputs) -> tuple[KeyValueCache, Tensor]:
        """What the VLM leaves of images, words and state, in this order, and which of them there are (b, m).

        Images and words read each other; the state reads all, and they do not read it.
        """
        images = inputs["images"]
        patches = shuffled(self.vision(images.flatten(0, 1)), self.config.shuffle)
        seen = self.connector(patches).unflatten(0, images.shape[:2])  # (b, v, p, d)
        scale = seen.new_tensor(self.config.language.width**0.5)
        words = self.language.embed(inputs["tokens"])
        state = self.state_proj(inputs["state"].to(self.state_proj.weight.dtype)).unsqueeze(1)
        x = torch.cat([(seen.flatten(1, 2) * scale).to(words), words, state.to(words)], 1)
        there = inputs["tokens_mask"].new_ones(len(x), 1)
        mask = torch.cat([inputs["images_mask"].repeat_interleave(seen.shape[2], 1), inputs["tokens_mask"], there], 1)
        allowed = mask.unsqueeze(1) & mask.unsqueeze(2)
        allowed[:, :-1, -1] = False
        cache: KeyValueCache = self.language(x, allowed, (mask.cumsum(1) - 1).clamp(min=0)).cache
        return cache, mask

    def velocity(self, x: Tensor, time: Tensor, cache: KeyValueCache, mask: Tensor) -> Tensor:
        """(b, k, a) of noisy actions (b, k, a) at times (b,)."""
        dtype = self.action_in_proj.weight.dtype
        actions = self.action_in_proj(x.to(dtype))
        embedded = time_embedding(time, actions.shape[-1], self.config.shortest, self.config.longest).to(dtype)
        timed = torch.cat([actions, embedded.unsqueeze(1).expand_as(actions)], -1)
        tokens = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(timed)))
        hidden = self.expert(tokens, cache, mask)
        velocity: Tensor = self.action_out_proj(hidden.to(self.action_out_proj.weight.dtype))
        return velocity.float()


def shuffled(patches: Tensor, factor: int) -> Tensor:
    """Patches (n, p, d), row by row, with the features of each square of f × f in one: (n, p / f², d · f²)."""
    side = round(patches.shape[1] ** 0.5)
    rows = patches.unflatten(1, (side // factor, factor, side // factor, factor))  # (n, r, f, c, f, d)
    return rows.transpose(2, 3).flatten(3).flatten(1, 2)


class SmolExpert(nn.Module):
    """Actions (b, k, e) that read the prefix; in some layers each also reads those before it."""

    def __init__(self, config: SmolConfig):
        super().__init__()
        self.config, own = config.expert, config.expert
        self.layers = nn.ModuleList(SmolBlock(own, reads=i % config.every != 0) for i in range(own.depth))
        self.norm = RMSNorm(own.width, own)

    def forward(self, x: Tensor, cache: KeyValueCache, mask: Tensor) -> Tensor:
        """(b, k, e) after the final norm.

        Args:
            cache, mask: keys and values of the prefix, and which of it there is (b, m).
        """
        count, config = x.shape[1], self.config
        allowed = flow_allowed(mask, range(count))
        own = torch.arange(count, device=x.device).expand(len(x), -1)
        # Layers that only read the prefix count places from 0, the others from the end of the prefix.
        after, first = (
            rotary(places, config.head_width, config.theta, config.scaling, x.dtype)
            for places in (own + mask.sum(1, keepdim=True), own)
        )
        some = allowed.any(-1, keepdim=True)
        for layer, past in zip(self.layers, zip(cache.keys, cache.values, strict=True), strict=True):
            if layer.reads:
                x = layer(x, allowed[:, None, :, : mask.shape[1]], some, first, past)
            else:
                x = layer(x, allowed.unsqueeze(1), some, after, past)
        hidden: Tensor = self.norm(x)
        return hidden


class SmolBlock(nn.Module):
    """
    Args:
        reads: its attention is to the prefix only.
    """

    def __init__(self, config: DecoderConfig, reads: bool):
        super().__init__()
        self.reads = reads
        self.input_layernorm, self.post_attention_layernorm = RMSNorm(config.width, config), RMSNorm(config.width, config)
        self.self_attn = PrefixAttention(config) if reads else GroupedAttention(config)
        self.mlp = GatedMLP(config)

    def forward(self, x: Tensor, mask: Tensor, some: Tensor, rotation: Rotation, past: KeyValuePair) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), mask, some, rotation, past)[0]
        added: Tensor = self.mlp(self.post_attention_layernorm(x))
        return x + added


class PrefixAttention(nn.Module):
    """Attention to keys and values that are linear in those of another transformer, all heads of them together."""

    def __init__(self, config: DecoderConfig):
        super().__init__()
        both = config.key_heads * config.head_width
        self.head_width, self.share = config.head_width, config.heads // config.key_heads
        self.q_proj = nn.Linear(config.width, config.heads * config.head_width, bias=False)
        self.k_proj, self.v_proj = nn.Linear(both, both, bias=False), nn.Linear(both, both, bias=False)
        self.o_proj = nn.Linear(config.heads * config.head_width, config.width, bias=False)

    def forward(
        self, x: Tensor, mask: Tensor, some: Tensor, rotation: Rotation, past: KeyValuePair
    ) -> tuple[Tensor, KeyValuePair]:
        q = rotated(self._split(self.q_proj(x)), rotation)
        k, v = (
            self._split(part(each.transpose(1, 2).flatten(2).to(part.weight.dtype)))
            for part, each in zip((self.k_proj, self.v_proj), past, strict=True)
        )
        wide_k, wide_v = (each.repeat_interleave(self.share, 1).to(q.dtype) for each in (k, v))
        read = F.scaled_dot_product_attention(q, wide_k, wide_v, attn_mask=mask)
        return self.o_proj(read.transpose(1, 2).flatten(2)), (k, v)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_width)).transpose(1, 2)
