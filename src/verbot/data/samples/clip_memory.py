"""Memory for decoded clips, which worker processes fill and the training process reads."""

from __future__ import annotations

import mmap
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.data.storage.cached_rows import allocate, gigabytes
from verbot.data.storage.pictures import PictureReader
from verbot.data.storage.reader import Dataset
from verbot.errors import DataError

ClipLayout = Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]]  # by camera: the kind of numbers, and the shape of a clip


@dataclass(frozen=True)
class ClipRequest:
    """Decode `rows` of `episode` into slot `slot` of the memory, from its frame `offset` on."""

    slot: int
    episode: int
    rows: range
    offset: int


@dataclass(frozen=True)
class MemoryAddress:
    """What another process needs to map the same memory."""

    path: str
    slots: int
    layout: ClipLayout


class ClipMemory:
    """`slots` clips of every camera. A slot that a process fills must not be read until it has said so.

    Args:
        arrays: (slots, frames, …) by camera.
        address: for `attach` in another process; None for memory of this process alone.
    """

    def __init__(self, slots: int, arrays: Mapping[str, Any], address: MemoryAddress | None, file: Any = None):
        self.slots, self.arrays, self.address = slots, arrays, address
        self._file = file

    def close(self) -> None:
        """Let the memory go once nothing uses its arrays."""
        if self._file is not None:
            self._file.close()

    @staticmethod
    def create(slots: int, layout: ClipLayout, shared: bool) -> ClipMemory:
        """New memory. Raises `DataError` where the system has not so much."""
        if not shared:
            return ClipMemory(slots, {c: np.empty((slots, *shape), dtype) for c, (dtype, shape) in layout.items()}, None)
        size = max(_size(slots, layout), 1)
        # Shared memory of Linux has a limit in containers (/dev/shm) and outlives a killed process; this has neither.
        linux = sys.platform == "linux"
        file: Any = os.fdopen(os.memfd_create("verbot-clips"), "w+b") if linux else tempfile.NamedTemporaryFile()  # noqa: SIM115
        try:
            allocate(file, 0, size)
        except OSError as error:
            file.close()
            raise DataError(
                f"{gigabytes(size)} of memory for decoded frames are not available: {error.strerror}; use fewer cameras or a "
                f"smaller network.image_size"
            ) from error
        path = f"/proc/{os.getpid()}/fd/{file.fileno()}" if linux else str(file.name)
        return ClipMemory(slots, _map(file, slots, layout), MemoryAddress(path, slots, layout), file)

    @staticmethod
    def attach(address: MemoryAddress) -> ClipMemory:
        """The memory of another process, which must be running."""
        with open(address.path, "r+b") as file:
            return ClipMemory(address.slots, _map(file, address.slots, address.layout), address)

    def fill(self, request: ClipRequest, reader: PictureReader, dataset: Dataset) -> None:
        """Decode a clip of every camera into its slot."""
        episode, stop = dataset[request.episode], request.offset + len(request.rows)
        for camera, frames in self.arrays.items():
            frames[request.slot, request.offset : stop] = reader.read(episode, camera, request.rows)


def _size(slots: int, layout: ClipLayout) -> int:
    return sum(slots * int(np.prod(shape)) * dtype.itemsize for dtype, shape in layout.values())


def _map(file: Any, slots: int, layout: ClipLayout) -> dict[str, Any]:
    memory, start, arrays = mmap.mmap(file.fileno(), max(_size(slots, layout), 1)), 0, {}
    for camera, (dtype, shape) in sorted(layout.items(), key=lambda item: -item[1][0].itemsize):  # so that all are aligned
        count = slots * int(np.prod(shape))
        arrays[camera] = np.frombuffer(memory, dtype, count, start).reshape(slots, *shape)
        start += count * dtype.itemsize
    return arrays
