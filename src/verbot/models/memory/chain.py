"""Several memories in series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from verbot.errors import ConfigError
from verbot.models.protocols import KeepsFrames
from verbot.models.registries import memories
from verbot.models.tokens import MemoryState, Sizes, TokenGroup


@memories.register("chain")
class Chain(nn.Module):
    """Each memory reads the output of the one before it; all write at the same time.

    The state names of memory i have the prefix ``"i."``.

    Args:
        parts: the memories in order, each ``{"name": …}``, optionally with ``"options"``.
    """

    def __init__(
        self,
        sizes: Sizes,
        width: int,
        count: int,
        parts: Sequence[Mapping[str, Any]] = ({"name": "external"}, {"name": "temporal"}),
    ):
        super().__init__()
        self.parts = nn.ModuleList()
        for part in parts:
            if "name" not in part or set(part) - {"name", "options"}:
                raise ConfigError(f"a memory of a chain is a name, with options if it has any; got {dict(part)}")
            memory = memories.build(part["name"], sizes, width, count, **part.get("options", {}))
            width, count = memory.width, memory.count
            self.parts.append(memory)
        if not self.parts:
            raise ConfigError(f"a chain needs at least one memory; there are {', '.join(memories.names())}")
        self.width, self.count = width, count
        self.frames = max(part.frames if isinstance(part, KeepsFrames) else 0 for part in self.parts)

    def initial(self, rows: int, device: torch.device | str = "cpu") -> MemoryState:
        """The empty state of every memory, for `rows` episodes."""
        states = [part.initial(rows, device) for part in self.parts]  # type: ignore[operator]
        return {f"{i}.{name}": x for i, state in enumerate(states) for name, x in state.items()}

    def forward(self, fused: TokenGroup, state: MemoryState, writes: Tensor) -> tuple[TokenGroup, MemoryState]:
        """The fused tokens after all memories, and their states, updated in the rows where `writes` (b,)."""
        kept: MemoryState = {}
        for i, part in enumerate(self.parts):
            start = f"{i}."
            own = {name.removeprefix(start): x for name, x in state.items() if name.startswith(start)}
            fused, after = part(fused, own, writes)
            kept |= {start + name: x for name, x in after.items()}
        return fused, kept
