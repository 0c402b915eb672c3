"""What comes into a policy and leaves it: a memory of its own layout, and nothing that is not finite."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from verbot.errors import PolicyError, SpecError
from verbot.models.features import NetworkOutput
from verbot.models.network import NetworkConfig
from verbot.models.tokens import MemoryState
from verbot.policy.memory import DEPTH, ProcessedObservation, get_array
from verbot.spec import FloatArray, Memory, Observation, RobotSpec, UInt8Array, check_memory

Array = tuple[tuple[int | None, ...], str]  # shape and kind of numbers; None is any length that is at least 1


def check_output(robot: str, output: NetworkOutput, actions: FloatArray, memories: Iterable[Memory | None]) -> None:
    """Raise `PolicyError` unless a prediction is finite throughout, also before it is clipped to the ranges."""
    parts = {"actions": output.actions, **{name: extra.values for name, extra in output.extras.items()}}
    wrong = [name for name, values in parts.items() if not bool(torch.isfinite(values).all())]
    if not wrong and not np.isfinite(actions).all():
        wrong = ["actions"]
    try:
        for memory in memories:
            check_memory(memory)
    except SpecError:
        wrong.append("memory")
    if wrong:
        raise PolicyError(
            f"the policy for robot {robot!r} predicted {', '.join(wrong)} that are not finite: its weights or statistics are "
            "damaged, or the observation is beyond everything it was trained on"
        )


def check_memories(
    pairs: Iterable[tuple[Observation, ProcessedObservation]],
    config: NetworkConfig,
    action_size: int,
    initial: MemoryState | None,
) -> None:
    """Raise `SpecError` unless the memory of every observation is one that the policy of this network writes, or None.

    Args:
        initial: the state of an empty memory part, of one row; None for a network without one.
    """
    for observation, latest in pairs:
        if observation.memory is not None and (layout := memory_layout(latest, config, action_size, initial)):
            check_layout(observation.memory, layout)


def memory_layout(
    latest: ProcessedObservation, config: NetworkConfig, action_size: int, initial: MemoryState | None
) -> dict[str, Array]:
    """What is written after an observation; nothing if the network needs no memory."""
    layout: dict[str, Array] = {}
    if config.history > 1:
        arrays = {"images": latest.images, "images_mask": latest.images_mask, "state": latest.state}
        arrays |= dict(zip(DEPTH, (latest.depth, latest.depth_mask), strict=True)) if latest.depth.size else {}
        layout |= {"time_s": ((None,), "f"), **{name: ((None, *array.shape), array.dtype.kind) for name, array in arrays.items()}}
    if config.previous_action:
        layout |= {"last_chunk": ((None, action_size), "f"), "last_chunk_s": ((), "f")}
    if initial is not None:
        for name, value in initial.items():
            layout[f"memory.{name}"] = tuple(value.shape[1:]), "b" if value.dtype == torch.bool else "f"
        layout["written_s"] = (), "f"
    return layout


def most_memory_bytes(latest: ProcessedObservation, config: NetworkConfig, action_size: int, initial: MemoryState | None) -> int:
    """The bytes of the largest memory of this layout: one frame for each control period of the history."""
    arrays = (latest.images, latest.images_mask, latest.state, latest.depth, latest.depth_mask)
    size = ((config.history - 1) * config.stride + 2) * (8 + sum(array.nbytes for array in arrays)) if config.history > 1 else 0
    size += 8 + 4 * config.chunk * action_size if config.previous_action else 0
    return size + (8 + sum(value.numel() * value.element_size() for value in initial.values()) if initial is not None else 0)


def blank_images(spec: RobotSpec) -> dict[str, UInt8Array]:
    """Black images of every camera of `spec`, zero depth included."""
    kinds: dict[str, Any] = {"color": ((3,), np.uint8), "depth": ((), np.float32)}
    return {c.name: np.zeros((c.height, c.width, *kinds[c.kind][0]), kinds[c.kind][1]) for c in spec.cameras}


def check_layout(memory: Memory, layout: Mapping[str, Array]) -> None:
    """Raise `SpecError` unless `memory` has the names, shapes and kinds of numbers of `layout`, finite throughout."""
    lengths = set[int]()
    for name, (shape, kind) in layout.items():
        array: npt.NDArray[Any] = get_array(memory, name)
        if not isinstance(array, np.ndarray) or array.dtype.kind != kind or not _fits(array.shape, shape):
            shown = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
            expected = ", ".join("n" if size is None else str(size) for size in shape)
            raise SpecError(f"this memory is of another policy: {name!r} is {shown}; expected ({expected}) of kind {kind!r}")
        if name in ("time_s", "images", "images_mask", "state", *DEPTH):
            lengths.add(len(array))
    if unknown := sorted(set(memory) - set(layout)):
        raise SpecError(f"this memory is of another policy: it has {', '.join(map(repr, unknown))}, which this one never writes")
    if len(lengths) > 1:
        raise SpecError(f"the frames of this memory differ in number: {', '.join(map(str, sorted(lengths)))}")
    check_memory(memory)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(n == m or (m is None and n > 0) for n, m in zip(shape, expected, strict=True))


def checksums(network: torch.nn.Module) -> tuple[int, ...]:
    """One for each weight and buffer. Unlike versions of tensors they notice every change, on every device."""
    weights = (*network.parameters(), *network.buffers())
    flat = (weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy() for weight in weights)
    return tuple(zlib.crc32(each.data) for each in flat)
