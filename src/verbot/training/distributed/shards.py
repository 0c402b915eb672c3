"""The rows of each weight in a shard, and reading a checkpoint with any number of shards.

Each weight is split by rows of its first dimension, as in ``torch.chunk`` and FSDP2. In the concatenated vector of all weights,
the part of a rank in each weight is a span, and its shard is the concatenation of its spans. So a checkpoint with any number of
shards, including one, can be read with any other number.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbot.errors import CorruptFileError

WeightShapes = Mapping[str, Sequence[int]]
WeightSpan = tuple[int, int]  # first index and end, in the vector of all weights
VECTORS = ("weights", "average", "first_moment", "second_moment", "best")  # sharded; other tensors are in every file
BLOCK = 1 << 24


@dataclass(frozen=True)
class Shard:
    """The shard of rank `rank` of `size`.

    Example:
        >>> Shard(0, 2).spans({"matrix": [3, 4], "vector": [2]}), Shard(1, 2).spans({"matrix": [3, 4], "vector": [2]})
        ([(0, 8), (12, 13)], [(8, 12), (13, 14)])
    """

    rank: int = 0
    size: int = 1

    def spans(self, layout: WeightShapes) -> list[WeightSpan]:
        """The span of this rank in each weight of `layout` (names to shapes), possibly empty."""
        found, start = [], 0
        for shape in layout.values():
            rows, width = (shape[0], math.prod(shape[1:])) if shape else (1, 1)
            each = -(-rows // self.size)
            first, last = (min(rank * each, rows) for rank in (self.rank, self.rank + 1))
            found.append((start + first * width, start + last * width))
            start += rows * width
        return found

    @property
    def file(self) -> str:
        return f"shard-{self.rank + 1:05d}-of-{self.size:05d}.safetensors"


def read(folder: Path, layout: WeightShapes, files: Mapping[str, str], shard: Shard) -> dict[str, Tensor]:
    """The tensors of a checkpoint for `shard`.

    Args:
        files: files of all ranks in order, each with its sha256; only those that overlap with the shard are read.

    Raises `CorruptFileError` for a changed file.
    """
    from safetensors import safe_open

    wanted = shard.spans(layout)
    held = [Shard(rank, len(files)).spans(layout) for rank in range(len(files))]
    needed = [any(_overlap(ours, its) for ours, its in zip(wanted, spans, strict=True)) for spans in held]
    needed[0] |= not any(needed)  # a rank without rows still needs the tensors that are not sharded
    with ExitStack() as stack:
        opened: list[Any] = []
        for (name, expected), used in zip(files.items(), needed, strict=True):
            if used:
                _verify(folder / name, expected)
            opened.append(stack.enter_context(safe_open(folder / name, "pt")) if used else None)
        one = next(each for each in opened if each is not None)
        return {
            key: _joined(key, wanted, held, opened) if key in VECTORS else one.get_tensor(key)
            for key in one.keys()  # noqa: SIM118  # of a file, which is no mapping
        }


def _joined(key: str, wanted: list[WeightSpan], held: list[list[WeightSpan]], opened: list[Any]) -> Tensor:
    """The spans `wanted` of one vector, from the files that are `opened`."""
    slices = [None if file is None else file.get_slice(key) for file in opened]
    parts, before = [torch.empty(0)], [0] * len(held)
    for number, ours in enumerate(wanted):
        for rank, spans in enumerate(held):
            its = spans[number]
            if both := _overlap(ours, its):
                start = before[rank] - its[0]
                parts.append(slices[rank][start + both[0] : start + both[1]])  # type: ignore[index]
            before[rank] += its[1] - its[0]
    return torch.cat(parts)


def _overlap(one: WeightSpan, other: WeightSpan) -> WeightSpan | None:
    first, last = max(one[0], other[0]), min(one[1], other[1])
    return (first, last) if first < last else None


def sha256(path: Path) -> str:
    """The digest of a file, read in blocks."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            found.update(block)
    return found.hexdigest()


def _verify(path: Path, expected: str) -> None:
    try:
        found = sha256(path)
    except OSError as error:
        raise CorruptFileError(path, f"cannot be read: {error}") from error
    if found != expected:
        raise CorruptFileError(path, "its sha256 is not the one in progress.json")
