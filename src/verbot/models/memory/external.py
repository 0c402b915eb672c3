"""Slots outside the network: written when something was seen, read by what is needed now."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.layers.transformer import reader
from verbot.models.registries import memories
from verbot.models.tokens import MemoryState, Sizes, TokenGroup


@memories.register("external")
class External(nn.Module):
    """A keyed store: read by attention, then written into the first empty slot, else the one least used.

    Each reading adds its attention to a slot's usage, and all usage fades. What is written starts with the highest usage of its
    store: otherwise the newest would be the next to go. The writing follows the reading, so nothing reads itself. Source: after
    Graves et al. 2016, with one write a step into one slot of each row's own store.

    Args:
        slots: in the store.
        key: numbers by which a slot is found.
        heads: readings at once, each with a query of its own.
        fading: usage kept from one step to the next.
    """

    def __init__(
        self, sizes: Sizes, width: int, count: int, slots: int = 16, key: int = 32, heads: int = 2, fading: float = 0.95
    ):
        super().__init__()
        if min(slots, key, heads) < 1 or not 0 <= fading <= 1:
            raise ConfigError(
                f"an external memory needs slots, key and heads of at least 1 and fading in [0, 1]; "
                f"got {slots}, {key}, {heads} and {fading}"
            )
        self.width, self.count = width, count
        self.slots, self.size, self.heads, self.fading = slots, key, heads, fading
        self.pool = reader(width, count)
        self.key, self.value, self.query = nn.Linear(width, key), nn.Linear(width, width), nn.Linear(width, heads * key)
        first, last = nn.Linear((1 + heads) * width, width), nn.Linear(width, width)
        for layer in (self.value, first, last):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # what is remembered shall not be drowned
        self.join = nn.Sequential(first, nn.GELU(), last)

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState:
        """Empty stores for `rows` episodes."""
        return {
            "keys": torch.zeros(rows, self.slots, self.size, device=device),
            "values": torch.zeros(rows, self.slots, self.width, device=device),
            "usage": torch.zeros(rows, self.slots, device=device),
            "filled": torch.zeros(rows, self.slots, dtype=torch.bool, device=device),
        }

    def forward(self, fused: TokenGroup, state: MemoryState, writes: Tensor) -> tuple[TokenGroup, MemoryState]:
        """What is fused now, with what was read; and the store, written to in the rows where `writes` (b,)."""
        now = self.pool(fused)  # (b, e)
        weights = self._attention(now, state)  # (b, heads, slots)
        read = (weights @ state["values"]).flatten(1)  # (b, heads·e)
        change = self.join(torch.cat([now, read], -1)).unsqueeze(1)
        usage = self.fading * state["usage"] + weights.sum(1)
        place = torch.where(state["filled"], usage, -1.0).argmin(-1)
        at = (torch.arange(self.slots, device=now.device) == place[:, None]) & writes[:, None]  # (b, slots)
        written: MemoryState = {
            "keys": torch.where(at.unsqueeze(-1), self.key(now).unsqueeze(1), state["keys"]),
            "values": torch.where(at.unsqueeze(-1), self.value(now).unsqueeze(1), state["values"]),
            "usage": torch.where(at, usage.amax(-1, keepdim=True).clamp(min=1), usage),
            "filled": state["filled"] | at,
        }
        return TokenGroup(fused.tokens + change, fused.mask, fused.kind), written

    def _attention(self, now: Tensor, state: MemoryState) -> Tensor:
        """Of each query to the filled slots; zeros where none is."""
        queries = self.query(now).unflatten(-1, (self.heads, -1))
        logits = queries @ state["keys"].transpose(1, 2) / math.sqrt(self.size)  # (b, heads, slots)
        filled = state["filled"].unsqueeze(1)
        return logits.masked_fill(~filled, -1e9).softmax(-1) * filled
