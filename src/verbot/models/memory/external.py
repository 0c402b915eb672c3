"""An external memory with key-value slots."""

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
    """Key-value slots: read by attention, then written to the first empty slot, or else to the least used one.

    The usage of a slot is an exponentially decaying sum of the attention to it. A newly written slot gets the highest usage of
    its store, so that it is not replaced next. Writing follows reading, so a frame does not read itself. Source: Graves et al.
    2016, simplified to one write per step into one slot.

    Args:
        slots: number of slots per episode.
        key: dimension of the keys.
        heads: number of queries per step.
        fading: decay factor of the usage per step.
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
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # so that the memory has an effect from the start
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
        """The fused tokens with the readout of the memory, and the state, with a slot written in the rows where `writes` (b,)."""
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
        """Attention (b, heads, slots) to the filled slots; zeros if there are none."""
        queries = self.query(now).unflatten(-1, (self.heads, -1))
        logits = queries @ state["keys"].transpose(1, 2) / math.sqrt(self.size)  # (b, heads, slots)
        filled = state["filled"].unsqueeze(1)
        return logits.masked_fill(~filled, -1e9).softmax(-1) * filled
