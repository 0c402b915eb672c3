"""π0 and π0.5 (Black et al. 2024; Physical Intelligence 2025): PaliGemma and an action expert that share attention.

The prefix of images and words never reads the actions, so sharing attention layer by layer is attending to the keys and values
that the prefix leaves behind.
"""

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
from verbot.models.trunks.decoder import GatedMLP, GroupedAttention, KeyValuePair, LanguageDecoder, RMSNorm, Rotation, rotary


@dataclass(frozen=True)
class PiConfig:
    """The architecture of a π0 or π0.5.

    Args:
        vision, language, expert: of its three transformers; the expert has no vocabulary.
        adaptive: the expert's norms are scaled, shifted and gated by the time, and it reads no state token (π0.5).
        chunk: k actions. action, state: numbers of an action and a state, padded.
        steps: Euler steps of a prediction.
        shortest, longest: periods of the embedding of the time.
    """

    vision: TowerConfig
    language: DecoderConfig
    expert: DecoderConfig
    adaptive: bool
    chunk: int
    action: int
    state: int
    steps: int = 10
    shortest: float = 4e-3
    longest: float = 4.0


class PaliGemma(nn.Module):
    """A vision tower, a projection and a Gemma: images and words as one prefix, all of which reads all of it."""

    def __init__(self, vision: TowerConfig, language: DecoderConfig):
        super().__init__()
        self.vision = PublishedTower(vision)
        self.project = nn.Linear(vision.width, language.width)
        self.language = LanguageDecoder(language)

    def embed(self, images: Tensor, images_mask: Tensor, tokens: Tensor, tokens_mask: Tensor) -> tuple[Tensor, Tensor]:
        """The prefix (b, m, d) of images (b, v, 3, s, s) and token ids (b, n), and which of it there is (b, m)."""
        patches = self.project(self.vision(images.flatten(0, 1))).unflatten(0, images.shape[:2])  # (b, v, p, d)
        words = self.language.embed(tokens)
        x = torch.cat([patches.flatten(1, 2).to(words), words], 1)
        return x, torch.cat([images_mask.repeat_interleave(patches.shape[2], 1), tokens_mask], 1)

    def read(self, x: Tensor, mask: Tensor) -> KeyValueCache:
        """Keys and values of a prefix."""
        allowed = mask.unsqueeze(1) & mask.unsqueeze(2)
        cache: KeyValueCache = self.language(x, allowed, prefix_positions(mask)).cache
        return cache


def prefix_positions(mask: Tensor) -> Tensor:
    """(b, m) int64; padding has no position of its own."""
    return (mask.cumsum(1) - 1).clamp(min=0)


class PiNetwork(PublishedNetwork):
    """See `PiConfig`. Inputs are ``images`` (b, v, 3, s, s) in [−1, 1], ``images_mask`` (b, v), ``tokens`` and ``tokens_mask``
    (b, n), and for π0 the padded ``state`` (b, s)."""

    def __init__(self, config: PiConfig):
        super().__init__()
        self.config, width = config, config.expert.width
        self.paligemma = PaliGemma(config.vision, config.language)
        self.expert = PiExpert(config.expert, config.adaptive)
        self.action_in_proj, self.action_out_proj = nn.Linear(config.action, width), nn.Linear(width, config.action)
        if config.adaptive:
            self.time_mlp_in, self.time_mlp_out = nn.Linear(width, width), nn.Linear(width, width)
        else:
            self.state_proj = nn.Linear(config.state, width)
            self.action_time_mlp_in, self.action_time_mlp_out = nn.Linear(2 * width, width), nn.Linear(width, width)

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        noise = drawn((self.config.chunk, self.config.action), generators, inputs["tokens"].device)
        return self.denoised(inputs, noise)

    def denoised(self, inputs: NetworkInputs, noise: Tensor) -> Tensor:
        """Actions (b, k, a) of noise of the same shape."""
        cache, mask = self.prefix(inputs)
        return integrate(lambda x, t: self.velocity(x, t, inputs, cache, mask), noise, self.config.steps)

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The flow-matching loss for normalized, padded actions (b, k, a)."""
        cache, seen = self.prefix(inputs)
        loss = flow_loss(lambda x, t: self.velocity(x, t, inputs, cache, seen), actions, mask, generator)
        return {"action": loss}

    def prefix(self, inputs: NetworkInputs) -> tuple[KeyValueCache, Tensor]:
        x, mask = self.paligemma.embed(*(inputs[name] for name in ("images", "images_mask", "tokens", "tokens_mask")))
        return self.paligemma.read(x, mask), mask

    def velocity(self, x: Tensor, time: Tensor, inputs: NetworkInputs, cache: KeyValueCache, mask: Tensor) -> Tensor:
        """(b, k, a) of noisy actions (b, k, a) at times (b,)."""
        tokens, condition, blocks = self._suffix(x, time, inputs)
        positions = mask.sum(1, keepdim=True) + torch.arange(tokens.shape[1], device=mask.device)
        hidden = self.expert(tokens, flow_allowed(mask, blocks), positions, cache, condition)
        velocity: Tensor = self.action_out_proj(hidden[:, -self.config.chunk :].to(self.action_out_proj.weight.dtype))
        return velocity.float()

    def _suffix(self, x: Tensor, time: Tensor, inputs: NetworkInputs) -> tuple[Tensor, Tensor | None, list[int]]:
        """The expert's tokens, what its norms depend on, and the block of each token."""
        dtype = self.action_in_proj.weight.dtype
        actions = self.action_in_proj(x.to(dtype))
        embedded = time_embedding(time, actions.shape[-1], self.config.shortest, self.config.longest).to(dtype)
        if self.config.adaptive:
            condition = F.silu(self.time_mlp_out(F.silu(self.time_mlp_in(embedded))))
            return actions, condition, [1] * self.config.chunk
        timed = torch.cat([actions, embedded.unsqueeze(1).expand_as(actions)], -1)
        timed = self.action_time_mlp_out(F.silu(self.action_time_mlp_in(timed)))
        state = self.state_proj(inputs["state"].to(dtype)).unsqueeze(1)
        return torch.cat([state, timed], 1), None, [1, *[2] * self.config.chunk]


class PiExpert(nn.Module):
    """A Gemma without embedding whose tokens read the keys and values of another, and their own.

    Args:
        adaptive: its norms depend on a condition (adaRMSNorm), and gate what each branch adds.
    """

    def __init__(self, config: DecoderConfig, adaptive: bool):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleList(PiExpertBlock(config, adaptive) for _ in range(config.depth))
        self.norm = AdaptiveNorm(config, adaptive)

    def forward(
        self, x: Tensor, allowed: Tensor, positions: Tensor, cache: KeyValueCache, condition: Tensor | None = None
    ) -> Tensor:
        """(b, n, d) after the final norm, of tokens (b, n, d) that may read m + n tokens as `allowed` (b, n, m + n) says."""
        rotation = rotary(positions, self.config.head_width, self.config.theta, self.config.scaling, x.dtype)
        mask, some = allowed.unsqueeze(1), allowed.any(-1, keepdim=True)
        for layer, past in zip(self.layers, zip(cache.keys, cache.values, strict=True), strict=True):
            x = layer(x, mask, some, rotation, past, condition)
        hidden: Tensor = self.norm(x, condition)[0]
        return hidden


class PiExpertBlock(nn.Module):
    def __init__(self, config: DecoderConfig, adaptive: bool):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = (AdaptiveNorm(config, adaptive) for _ in range(2))
        self.self_attn, self.mlp = GroupedAttention(config), GatedMLP(config)

    def forward(
        self, x: Tensor, mask: Tensor, some: Tensor, rotation: Rotation, past: KeyValuePair, condition: Tensor | None
    ) -> Tensor:
        normed, gate = self.input_layernorm(x, condition)
        x = x + gate * self.self_attn(normed, mask, some, rotation, past)[0]
        normed, gate = self.post_attention_layernorm(x, condition)
        added: Tensor = gate * self.mlp(normed)
        return x + added


class AdaptiveNorm(nn.Module):
    """RMSNorm as Gemma's; or with scale, shift and gate that a linear layer makes of a condition (b, d)."""

    def __init__(self, config: DecoderConfig, adaptive: bool):
        super().__init__()
        self.epsilon, self.adaptive = config.epsilon, adaptive
        if adaptive:
            self.dense = nn.Linear(config.width, 3 * config.width)
        else:
            self.weight = RMSNorm(config.width, config).weight

    def forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        """The normed x (b, n, d), and the gate (b, 1, d) of the branch behind it, ones without a condition."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.epsilon)
        if not self.adaptive:
            return (wide * (1 + self.weight.float())).to(x.dtype), x.new_ones(())
        assert condition is not None
        scale, shift, gate = self.dense(condition.to(self.dense.weight.dtype)).unsqueeze(1).chunk(3, -1)
        return (wide * (1 + scale.float()) + shift.float()).to(x.dtype), gate.to(x.dtype)
