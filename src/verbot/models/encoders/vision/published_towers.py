"""The vision transformers of published models: SigLIP (Zhai et al. 2023), and DINOv2 with registers (Darcet et al. 2024)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.allocation import uncounted
from verbot.models.trunks.architecture import ACTIVATIONS
from verbot.models.trunks.weights import COMPILED, Targets, TensorFiles, load_exactly


@dataclass(frozen=True)
class TowerConfig:
    """The architecture of a vision transformer.

    Args:
        width, depth, heads, hidden: d, the number of blocks and of heads, and the width of the MLP.
        patch, side: of a patch and of the square image, in pixels.
        epsilon: of the norms.
        activation: ``"gelu"`` or ``"gelu_tanh"``.
        registers: tokens beside the patches: none, or a class token and so many registers. They are not returned.
        scaled: each branch is scaled by learned factors (LayerScale, Touvron et al. 2021).
        skipped: last blocks that are not computed; the final norm then is left out too. OpenVLA reads the second to last block.

    Raises `ConfigError` for sizes that do not fit.
    """

    width: int
    depth: int
    heads: int
    hidden: int
    patch: int
    side: int
    epsilon: float = 1e-6
    activation: str = "gelu_tanh"
    registers: int | None = None
    scaled: bool = False
    skipped: int = 0

    def __post_init__(self) -> None:
        if self.width % self.heads or self.side < self.patch or not 0 <= self.skipped < self.depth:
            raise ConfigError(
                f"a vision transformer of width {self.width} with {self.heads} heads, patches of {self.patch} in {self.side} px "
                f"and {self.skipped} of {self.depth} blocks left out is not possible"
            )
        if self.activation not in ("gelu", "gelu_tanh"):
            raise ConfigError(f"a vision transformer has no activation {self.activation!r}; known: gelu, gelu_tanh")

    @property
    def patches(self) -> int:
        return (self.side // self.patch) ** 2


# The two of OpenVLA, as the timm library defines them: SigLIP with the exact GELU, unlike the same weights in transformers.
OPENVLA_DINO = TowerConfig(1024, 24, 16, 4096, 14, 224, 1e-6, "gelu", registers=4, scaled=True, skipped=1)
OPENVLA_SIGLIP = TowerConfig(1152, 27, 16, 4304, 14, 224, 1e-6, "gelu", skipped=1)


def siglip_config(record: Mapping[str, Any]) -> TowerConfig:
    """The tower that a ``vision_config`` of the transformers library describes (PaliGemma, SmolVLM, SigLIP)."""
    activation = str(record.get("hidden_act", "gelu_pytorch_tanh"))
    try:
        return TowerConfig(
            width=int(record.get("hidden_size", 768)),
            depth=int(record.get("num_hidden_layers", 12)),
            heads=int(record.get("num_attention_heads", 12)),
            hidden=int(record.get("intermediate_size", 3072)),
            patch=int(record.get("patch_size", 16)),
            side=int(record.get("image_size", 224)),
            epsilon=float(record.get("layer_norm_eps", 1e-6)),
            activation=ACTIVATIONS.get(activation, activation),
        )
    except (TypeError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"the architecture of this vision model cannot be read: {error}") from error


class PublishedTower(nn.Module):
    """A pre-norm vision transformer (Dosovitskiy et al. 2021); see `TowerConfig`."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config, d = config, config.width
        self.patch = nn.Conv2d(3, d, config.patch, config.patch)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(config.patches, d), std=0.02))
        if config.registers is not None:
            self.first, self.registers = nn.Parameter(torch.zeros(1, d)), nn.Parameter(torch.zeros(config.registers, d))
        self.blocks = nn.ModuleList(TowerBlock(config) for _ in range(config.depth - config.skipped))
        self.norm = None if config.skipped else nn.LayerNorm(d, config.epsilon)

    def forward(self, images: Tensor) -> Tensor:
        """The patches (b, n, d), row by row, of normalized images (b, 3, side, side). Raises `ConfigError` for another size."""
        side = self.config.side
        if images.shape[-2:] != (side, side):
            raise ConfigError(f"this vision model reads images of {side} × {side}; got {tuple(images.shape[-2:])}")
        x = self.patch(images.to(self.positions.dtype)).flatten(2).transpose(1, 2) + self.positions
        if self.config.registers is not None:
            x = torch.cat([torch.cat([self.first, self.registers]).expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return (x if self.norm is None else self.norm(x))[:, -self.config.patches :]


class TowerBlock(nn.Module):
    def __init__(self, config: TowerConfig):
        super().__init__()
        d = config.width
        self.heads, self.approximate = config.heads, "tanh" if config.activation == "gelu_tanh" else "none"
        self.norm1, self.norm2 = nn.LayerNorm(d, config.epsilon), nn.LayerNorm(d, config.epsilon)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.fc1, self.fc2 = nn.Linear(d, config.hidden), nn.Linear(config.hidden, d)
        self.scale1 = nn.Parameter(torch.ones(d)) if config.scaled else None
        self.scale2 = nn.Parameter(torch.ones(d)) if config.scaled else None

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (part(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        read = self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        x = x + (read if self.scale1 is None else read * self.scale1)
        read = self.fc2(F.gelu(self.fc1(self.norm2(x)), approximate=self.approximate))
        return x + (read if self.scale2 is None else read * self.scale2)


# Published names of what is around and inside the blocks, those of transformers first, then those of timm -> own names.
AROUND: dict[str, Targets] = {
    "embeddings.patch_embedding.weight": ("patch.weight",), "patch_embed.proj.weight": ("patch.weight",),
    "embeddings.patch_embedding.bias": ("patch.bias",), "patch_embed.proj.bias": ("patch.bias",),
    "embeddings.position_embedding.weight": ("positions",), "pos_embed": ("positions",),
    "cls_token": ("first",), "reg_token": ("registers",),
    "post_layernorm.weight": ("norm.weight",), "norm.weight": ("norm.weight",),
    "post_layernorm.bias": ("norm.bias",), "norm.bias": ("norm.bias",),
}  # fmt: skip
INSIDE: dict[str, tuple[str, ...]] = {
    "layer_norm1": ("norm1",), "layer_norm2": ("norm2",), "norm1": ("norm1",), "norm2": ("norm2",),
    "self_attn.q_proj": ("query",), "self_attn.k_proj": ("key",), "self_attn.v_proj": ("value",), "self_attn.out_proj": ("out",),
    "attn.qkv": ("query", "key", "value"), "attn.proj": ("out",),
    "mlp.fc1": ("fc1",), "mlp.fc2": ("fc2",),
}  # fmt: skip
SCALES = ("ls{}.scale_factor", "ls{}.gamma")  # OpenVLA renames timm's
BLOCK = re.compile(r"(?:encoder\.layers|blocks)\.(\d+)\.(.+)")
LAYERED = ("vision_model.", "vision_tower.")


def tower_targets(config: TowerConfig, prefix: str = "") -> Callable[[str], Targets]:
    """The parameters of a `PublishedTower` for the names of transformers or timm below `prefix`; others are left out.

    The pooling head, which no policy reads, and the blocks after the last that is computed are left out too.
    """

    def targets(name: str) -> Targets:
        name = name.replace(COMPILED, "")
        if not name.startswith(prefix):
            return ()
        own = name.removeprefix(prefix)
        while own.startswith(LAYERED):
            own = own.split(".", 1)[1]
        if own.startswith(("attn_pool.", "head.")) or (config.skipped and own.startswith(("post_layernorm.", "norm."))):
            return ()
        block = BLOCK.fullmatch(own)
        if block is None:
            return AROUND.get(own, (own,))
        number, part = int(block[1]), block[2]
        if config.depth - config.skipped <= number < config.depth:
            return ()
        return tuple(f"blocks.{number}.{each}" for each in _inside(part))

    return targets


def _inside(part: str) -> Targets:
    for number in (1, 2):
        if part in [scale.format(number) for scale in SCALES]:
            return (f"scale{number}",)
    layer, _, kind = part.rpartition(".")
    return tuple(f"{own}.{kind}" for own in INSIDE.get(layer, (layer,)))


def read_tower(config: TowerConfig, folder: Path, prefix: str = "", dtype: torch.dtype | None = None) -> PublishedTower:
    """A tower with the weights below `prefix` in `folder`, memory-mapped where `dtype` is None or that of the file.

    Raises `CorruptFileError` for a weight that is unknown, missing, misshapen or doubled, and names it.
    """
    with uncounted():
        with torch.device("meta"):
            tower = PublishedTower(config)
        load_exactly(tower, TensorFiles.find(folder), tower_targets(config, prefix), dtype)
    return tower
