"""A gated recurrent unit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from verbot.models.layers.transformer import reader
from verbot.models.registries import memories
from verbot.models.tokens import MemoryState, Sizes, TokenGroup


@memories.register("recurrent")
class Recurrent(nn.Module):
    """A GRU (Cho et al. 2014) over the fused tokens; the baseline for other memories.

    Args:
        size: dimension of the state.
    """

    def __init__(self, sizes: Sizes, width: int, count: int, size: int = 256):
        super().__init__()
        self.width, self.count, self.size = width, count, size
        self.pool, self.cell = reader(width, count), nn.GRUCell(width, size)
        self.join = nn.Linear(size, width)
        nn.init.normal_(
            self.join.weight, std=2 / size**0.5
        )  # initial states are small, and the memory must have an effect from the start

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState:
        return {"state": torch.zeros(rows, self.size, device=device)}

    def forward(self, fused: TokenGroup, state: MemoryState, writes: Tensor) -> tuple[TokenGroup, MemoryState]:
        """The fused tokens with the updated state, and the state, updated in the rows where `writes` (b,)."""
        now: Tensor = self.cell(self.pool(fused), state["state"])
        kept = torch.where(writes.unsqueeze(-1), now, state["state"])
        return TokenGroup(fused.tokens + self.join(now).unsqueeze(1), fused.mask, fused.kind), {"state": kept}
