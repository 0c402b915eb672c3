"""Action chunking with transformers (Zhao et al. 2023), as LeRobot computes it, with the names of its weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.published.base import NetworkInputs, PublishedNetwork
from verbot.models.published.resnet import WIDTHS, ResNet

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "gelu": F.gelu}


@dataclass(frozen=True)
class ActConfig:
    """The architecture of an ACT policy.

    Args:
        cameras, state, action, chunk: how many there are; `state` is 0 for none.
        backbone: of the images, `verbot.models.published.resnet`.
        width, heads, hidden: of the transformers. encoders, decoders: their layers.
        latent, latents: width of the latent variable, and layers of its encoder; 0 for a policy without one.
        before: norms come before the branches.
        dropout, divergence: of training; the weight of the KL divergence.

    Raises `ConfigError` for an activation that is not known.
    """

    cameras: int
    state: int
    action: int
    chunk: int
    backbone: str = "resnet18"
    width: int = 512
    heads: int = 8
    hidden: int = 3200
    encoders: int = 4
    decoders: int = 1
    latent: int = 32
    latents: int = 4
    activation: str = "relu"
    before: bool = False
    dropout: float = 0.1
    divergence: float = 10.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"an ACT policy has no activation {self.activation!r}; known: {', '.join(ACTIVATIONS)}")
        if self.width % self.heads or self.width % 4:
            raise ConfigError(f"an ACT policy of width {self.width} with {self.heads} heads is not possible")


class ActNetwork(PublishedNetwork):
    """See `ActConfig`. Inputs are ``images.0`` … (b, 3, h, w), normalized, and ``state`` (b, s)."""

    def __init__(self, config: ActConfig):
        super().__init__()
        self.config, d = config, config.width
        if config.latents:
            self.vae_encoder = ActEncoder(config, config.latents)
            self.vae_encoder_cls_embed = nn.Embedding(1, d)
            if config.state:
                self.vae_encoder_robot_state_input_proj = nn.Linear(config.state, d)
            self.vae_encoder_action_input_proj = nn.Linear(config.action, d)
            self.vae_encoder_latent_output_proj = nn.Linear(d, 2 * config.latent)
            self.register_buffer("vae_encoder_pos_enc", torch.zeros(1, 1 + bool(config.state) + config.chunk, d))
        if config.cameras:
            self.backbone = ResNet(config.backbone, "frozen")
            self.encoder_img_feat_input_proj = nn.Conv2d(WIDTHS[-1], d, 1)
        self.encoder, self.decoder = ActEncoder(config, config.encoders), ActDecoder(config)
        if config.state:
            self.encoder_robot_state_input_proj = nn.Linear(config.state, d)
        self.encoder_latent_input_proj = nn.Linear(config.latent, d)
        self.encoder_1d_feature_pos_embed = nn.Embedding(1 + bool(config.state), d)
        self.decoder_pos_embed = nn.Embedding(config.chunk, d)
        self.action_head = nn.Linear(d, config.action)

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        """The latent variable is zero, so nothing is drawn."""
        weight = self.action_head.weight
        return self.decoded(inputs, weight.new_zeros(len(generators), self.config.latent)).float()

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The mean absolute error of the actions that `mask` (b, k) keeps, and the weighted KL divergence of the latent."""
        found = dict[str, Tensor]()
        latent = actions.new_zeros(len(actions), self.config.latent)
        if self.config.latents:
            mean, log_variance = self.posterior(inputs, actions, mask).chunk(2, -1)
            latent = mean + (log_variance / 2).exp() * torch.randn(mean.shape, generator=generator).to(mean)
            divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1).mean()
            found["divergence"] = self.config.divergence * divergence
        error = (self.decoded(inputs, latent) - actions).abs().mean(-1)
        return {"action": (error * mask).sum() / mask.sum().clamp(min=1), **found}

    def decoded(self, inputs: NetworkInputs, latent: Tensor) -> Tensor:
        """Normalized actions (b, k, a) for a latent variable (b, l)."""
        tokens, places = [self.encoder_latent_input_proj(latent).unsqueeze(1)], [self.encoder_1d_feature_pos_embed.weight]
        if self.config.state:
            tokens.append(self.encoder_robot_state_input_proj(inputs["state"].to(latent)).unsqueeze(1))
        for camera in range(self.config.cameras):
            features = self.backbone(inputs[f"images.{camera}"].to(latent))
            places.append(image_places(features, self.config.width))
            tokens.append(self.encoder_img_feat_input_proj(features).flatten(2).transpose(1, 2))
        place = torch.cat(places).unsqueeze(0)
        memory = self.encoder(torch.cat(tokens, 1), place)
        start = memory.new_zeros(len(memory), self.config.chunk, self.config.width)
        actions: Tensor = self.action_head(self.decoder(start, memory, place, self.decoder_pos_embed.weight.unsqueeze(0)))
        return actions

    def posterior(self, inputs: NetworkInputs, actions: Tensor, mask: Tensor) -> Tensor:
        """Mean and logarithm of the variance of the latent variable, (b, 2 l)."""
        first = self.vae_encoder_cls_embed.weight.expand(len(actions), 1, -1)
        state = [self.vae_encoder_robot_state_input_proj(inputs["state"]).unsqueeze(1)] if self.config.state else []
        tokens = torch.cat([first, *state, self.vae_encoder_action_input_proj(actions)], 1)
        padding = torch.cat([mask.new_zeros(len(mask), tokens.shape[1] - mask.shape[1], dtype=torch.bool), ~mask.bool()], 1)
        found: Tensor = self.vae_encoder_latent_output_proj(self.vae_encoder(tokens, self.vae_encoder_pos_enc, padding)[:, 0])
        return found


class ActEncoder(nn.Module):
    """Layers of self-attention over tokens (b, n, d) with places (1, n, d)."""

    def __init__(self, config: ActConfig, depth: int):
        super().__init__()
        self.layers = nn.ModuleList(ActLayer(config) for _ in range(depth))
        self.norm = nn.LayerNorm(config.width) if config.before else nn.Identity()

    def forward(self, x: Tensor, place: Tensor, padding: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, place, padding)
        x = self.norm(x)
        return x


class ActDecoder(nn.Module):
    """Layers of self-attention and attention to a memory (b, m, d) with places."""

    def __init__(self, config: ActConfig):
        super().__init__()
        self.layers = nn.ModuleList(ActDecoderLayer(config) for _ in range(config.decoders))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, memory: Tensor, memory_place: Tensor, place: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x, memory, memory_place, place)
        x = self.norm(x)
        return x


class ActLayer(nn.Module):
    def __init__(self, config: ActConfig):
        super().__init__()
        d = config.width
        self.before, self.activation = config.before, ACTIVATIONS[config.activation]
        self.self_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, config.hidden), nn.Linear(config.hidden, d)
        self.norm1, self.norm2, self.dropout = nn.LayerNorm(d), nn.LayerNorm(d), nn.Dropout(config.dropout)

    def forward(self, x: Tensor, place: Tensor, padding: Tensor | None = None) -> Tensor:
        given = self.norm1(x) if self.before else x
        placed = given + place
        x = x + self.dropout(self.self_attn(placed, placed, given, key_padding_mask=padding, need_weights=False)[0])
        return _fed_forward(self, x, self.norm1, self.norm2)


class ActDecoderLayer(nn.Module):
    def __init__(self, config: ActConfig):
        super().__init__()
        d = config.width
        self.before, self.activation = config.before, ACTIVATIONS[config.activation]
        self.self_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.multihead_attn = nn.MultiheadAttention(d, config.heads, config.dropout, batch_first=True)
        self.linear1, self.linear2 = nn.Linear(d, config.hidden), nn.Linear(config.hidden, d)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(d), nn.LayerNorm(d), nn.LayerNorm(d)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, memory: Tensor, memory_place: Tensor, place: Tensor) -> Tensor:
        given = self.norm1(x) if self.before else x
        placed = given + place
        x = x + self.dropout(self.self_attn(placed, placed, given, need_weights=False)[0])
        x = x if self.before else self.norm1(x)
        given = self.norm2(x) if self.before else x
        x = x + self.dropout(self.multihead_attn(given + place, memory + memory_place, memory, need_weights=False)[0])
        return _fed_forward(self, x, self.norm2, self.norm3)


def _fed_forward(layer: ActLayer | ActDecoderLayer, x: Tensor, inner: nn.Module, outer: nn.Module) -> Tensor:
    """The feed-forward branch. Norms before it use `outer`; after it, `inner` ends the branch before, and `outer` this one."""
    x = x if layer.before else inner(x)
    given = outer(x) if layer.before else x
    x = x + layer.dropout(layer.linear2(layer.dropout(layer.activation(layer.linear1(given)))))
    return x if layer.before else outer(x)


def image_places(features: Tensor, width: int) -> Tensor:
    """Sines and cosines (h · w, width) of the places in features (b, c, h, w): first of the row, then of the column.

    Places run from 1/h to 1 of a turn, as in DETR (Carion et al. 2020).
    """
    half = width // 2
    rates = 10_000 ** (2 * (torch.arange(half, dtype=torch.float32, device=features.device) // 2) / half)
    parts = []
    for size, axis in zip(features.shape[-2:], (1, 0), strict=True):
        place = torch.arange(1, size + 1, dtype=torch.float32, device=features.device)
        angles = (place / (size + 1e-6) * 2 * math.pi).unsqueeze(-1) / rates
        waves = torch.stack([angles[:, 0::2].sin(), angles[:, 1::2].cos()], -1).flatten(1)  # (size, half)
        parts.append(waves.unsqueeze(axis).expand(*features.shape[-2:], half))
    return torch.cat(parts, -1).flatten(0, 1).to(features.dtype)
