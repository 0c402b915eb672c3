"""OpenVLA-OFT (Kim et al. 2025): OpenVLA that reads several images and a state, and answers a chunk of actions in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from verbot.models.published.base import NetworkInputs
from verbot.models.published.openvla import OpenVlaConfig, PrismaticNetwork, places


@dataclass(frozen=True)
class OftConfig:
    """The architecture of an OpenVLA-OFT.

    Args:
        body: of the OpenVLA under it.
        chunk: k actions.
        state: numbers of a state; 0 for a policy without one.
        blocks, hidden: of the head's residual MLP.
    """

    body: OpenVlaConfig
    chunk: int
    state: int
    blocks: int
    hidden: int

    @property
    def slots(self) -> int:
        """Places of the sequence for the numbers of all actions."""
        return self.chunk * self.body.action


class OftNetwork(PrismaticNetwork):
    """See `OftConfig`. Beside those of `PrismaticNetwork` an input is the normalized ``state`` (b, s). The tokens of a prompt end
    with one for each number of all actions, whose embeddings are set to zero, and the end of the text."""

    def __init__(self, config: OftConfig):
        super().__init__(config.body)
        self.oft, width = config, config.body.language.width
        self.action_head = ResidualHead(width * config.body.action, config.hidden, config.blocks, config.body.action)
        if config.state:
            self.proprio_projector = StateProjector(config.state, width)

    def act(self, inputs: NetworkInputs, generators: Sequence[torch.Generator]) -> Tensor:
        """Nothing is drawn."""
        return self.regressed(inputs)

    def losses(
        self, inputs: NetworkInputs, actions: Tensor, mask: Tensor, generator: torch.Generator | None
    ) -> dict[str, Tensor]:
        """The mean absolute error of the actions (b, k, a) that `mask` (b, k) keeps."""
        error = (self.regressed(inputs) - actions).abs().mean(-1)
        return {"action": (error * mask).sum() / mask.sum().clamp(min=1)}

    def regressed(self, inputs: NetworkInputs) -> Tensor:
        """Normalized actions (b, k, a) float32. All tokens read all others (no causal mask), as published."""
        tokens, slots = inputs["tokens"], self.oft.slots
        prompt = inputs["tokens_mask"].sum(1, keepdim=True) - slots - 1  # (b, 1)
        own = torch.arange(tokens.shape[1], device=tokens.device)
        empty = (own >= prompt) & (own < prompt + slots)
        words = self.language.embed(tokens).masked_fill(empty.unsqueeze(-1), 0)
        inserted = self.patches(inputs["pixels"])
        if self.oft.state:
            state = self.proprio_projector(inputs["state"].to(self.proprio_projector.fc1.weight.dtype))
            inserted = torch.cat([inserted, state.unsqueeze(1).to(inserted)], 1)
        x, real = self.joined(words, inputs["tokens_mask"], inserted)
        allowed = real.unsqueeze(1).expand(-1, real.shape[1], -1)
        hidden = self.language(x, allowed, places(real)).hidden
        # Each number is read one place before its own, as in a causal model.
        before = inserted.shape[1] + prompt - 1 + torch.arange(slots, device=tokens.device)
        read = hidden.gather(1, before.unsqueeze(-1).expand(-1, -1, hidden.shape[-1]))
        actions: Tensor = self.action_head(read.unflatten(1, (self.oft.chunk, -1)).flatten(2))
        return actions.float()


class StateProjector(nn.Module):
    def __init__(self, given: int, width: int):
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(given, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class ResidualHead(nn.Module):
    """An MLP with residual blocks; its names are those of the published one."""

    def __init__(self, given: int, width: int, blocks: int, out: int):
        super().__init__()
        self.layer_norm1, self.fc1 = nn.LayerNorm(given), nn.Linear(given, width)
        self.mlp_resnet_blocks = nn.ModuleList(ResidualBlock(width) for _ in range(blocks))
        self.layer_norm2, self.fc2 = nn.LayerNorm(width), nn.Linear(width, out)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.fc1(self.layer_norm1(x)))
        for block in self.mlp_resnet_blocks:
            x = block(x)
        out: Tensor = self.fc2(self.layer_norm2(x))
        return out


class ResidualBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.ffn = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ffn(x)
        return out + x
