"""A transformer over the features of the last frames."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers.transformer import Block, reader, until
from verbot.models.registries import memories
from verbot.models.tokens import MemoryState, Sizes, TokenGroup


@memories.register("temporal")
class TemporalMemory(nn.Module):
    """Causal self-attention (Vaswani et al. 2017) over one vector for each past frame and the current one, with age embeddings.

    The state is a queue of vectors, oldest first. Ages count writes. The current frame is read with the past ones, then written.

    Args:
        frames: number of past frames. At most `NetworkConfig.sequence` − 1, which the network checks: older frames would never
            be trained.
        size: dimension of the vector of a frame.
        layers, heads, expansion: the numbers of layers and heads, and the feed-forward expansion of the transformer.
    """

    def __init__(
        self,
        sizes: Sizes,
        width: int,
        count: int,
        frames: int = 7,
        size: int = 64,
        layers: int = 1,
        heads: int = 4,
        expansion: int = 2,
    ):
        super().__init__()
        if min(frames, size, layers) < 1:
            raise ConfigError(f"a temporal memory needs frames, size and layers of at least 1; got {frames}, {size} and {layers}")
        self.width, self.count = width, count
        self.frames, self.size = frames, size
        self.pool, self.keep = reader(width, count), nn.Linear(width, size)
        self.ages = nn.Parameter(torch.randn(frames + 1, size) * 0.5)  # of the oldest first, of the present last
        self.blocks = nn.ModuleList(Block(size, heads, expansion) for _ in range(layers))
        self.join = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width))

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState:
        """The empty state, for `rows` episodes."""
        return {
            "features": torch.zeros(rows, self.frames, self.size, device=device),
            "filled": torch.zeros(rows, self.frames, dtype=torch.bool, device=device),
        }

    def forward(self, fused: TokenGroup, state: MemoryState, writes: Tensor) -> tuple[TokenGroup, MemoryState]:
        """The fused tokens with the readout of the memory, and the state, with this frame in the rows where `writes` (b,)."""
        now = self.keep(self.pool(fused)).unsqueeze(1)  # (b, 1, d)
        features = torch.cat([state["features"], now], 1)  # (b, frames + 1, d)
        filled = torch.cat([state["filled"], torch.ones_like(state["filled"][:, :1])], 1)
        x, mask = features + self.ages, until(torch.arange(self.frames + 1, device=now.device), filled)
        for block in self.blocks:
            x = block(x, mask)
        kept: MemoryState = {
            "features": torch.where(writes[:, None, None], features[:, 1:], state["features"]),
            "filled": torch.where(writes[:, None], filled[:, 1:], state["filled"]),
        }
        return TokenGroup(fused.tokens + self.join(x[:, -1:]), fused.mask, fused.kind), kept
