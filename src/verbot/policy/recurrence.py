"""What a policy carries from one prediction of an episode to the next: frames, and the state of a memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from verbot.models.tokens import MemoryState
from verbot.policy.memory import ProcessedObservation, get_array, keep
from verbot.spec import Memory, Observation


def remembered_state(observations: Sequence[Observation], initial: MemoryState, step_s: float) -> dict[str, Any]:
    """The memory of every episode, and whether the next write to it is due: fields of `Batch`."""

    def row(memory: Memory | None, name: str) -> Tensor:
        if memory is None:
            return initial[name]
        return torch.from_numpy(np.array(get_array(memory, f"memory.{name}")))[None].to(initial[name].dtype)

    state = {name: torch.cat([row(o.memory, name) for o in observations]) for name in initial}
    due = [o.memory is None or o.time_s - float(get_array(o.memory, "written_s")) > 0.999 * step_s for o in observations]
    return {"memory": state, "writes": torch.tensor(due)}


def next_memory(
    row: int,
    observation: Observation,
    processed: ProcessedObservation,
    span_s: float,
    writes: Tensor | None,
    state: MemoryState | None,
) -> Memory | None:
    """The memory to return for the episode of this row; None if the network needs none.

    Args:
        span_s: seconds of past frames that the network reads; 0 for none.
        writes: (b,), of the batch. state: of the network's output.
    """
    kept: dict[str, Any] = {}
    if span_s > 0:
        kept |= keep(observation.memory, processed, span_s)
    if state is not None:
        assert writes is not None
        memory = observation.memory
        written = observation.time_s if bool(writes[row]) or memory is None else memory["written_s"]
        kept |= {f"memory.{name}": value[row].cpu().numpy().copy() for name, value in state.items()}
        kept["written_s"] = np.asarray(written, np.float64)
    return kept or None
