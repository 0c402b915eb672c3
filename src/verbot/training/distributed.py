"""Data parallelism over processes of one machine: equal copies of the network, each on its slice of the same batch.

Gradients are averaged through shared memory, and a pipe to each follower is the barrier: gloo over loopback took five
milliseconds for the same vector, a follower that dies is noticed at once, and two processes of one thread train faster than
one process of two.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbot.errors import TrainingError
from verbot.processes import Channel, Worker, WorkerError, workers


class Team:
    """The processes that train together. The leader is the process that the user started.

    Every member makes the same calls in the same order.
    """

    def __init__(self, rank: int, size: int, followers: list[Worker] | None = None, leader: Channel | None = None):
        self.rank, self.size = rank, size
        self._followers, self._leader = followers or [], leader
        self._slots = torch.empty(0)
        self._turn = 0

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def agree(self, value: Any = None) -> Any:
        """The leader's value, everywhere; a barrier too. Raises `TrainingError` in the leader when a follower is gone."""
        if self._leader is not None:
            self._leader.send(None)
            return self._leader.receive()
        try:
            for follower in self._followers:
                follower.receive()
            for follower in self._followers:
                follower.send(value)
        except WorkerError as error:
            raise TrainingError(f"training stopped because one of its processes did: {error}") from error
        return value

    def average(self, *vectors: Tensor) -> None:
        """In place, the mean over all processes of each vector (n,); the same bits for everyone."""
        if self.size == 1:
            return
        joined = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
        if self._slots.shape[-1] < len(joined):
            self._slots = self._share(len(joined))
        # Two sets of slots take turns: whoever is past the next barrier has finished reading this one.
        slots, self._turn = self._slots[self._turn, :, : len(joined)], 1 - self._turn
        slots[self.rank].copy_(joined)
        self.agree()
        torch.add(slots[0], slots[1], out=joined)
        for slot in slots[2:]:
            joined.add_(slot)
        joined.div_(self.size)
        for vector, mean in zip(vectors, joined.split([len(v) for v in vectors]), strict=True):
            vector.copy_(mean)

    def _share(self, length: int) -> Tensor:
        """Float32 (2, size, length) in memory that all members see; the file behind it has no name for longer than needed."""
        count = 2 * self.size * length
        path = self.agree(_shared_file(4 * count) if self.leads else None)
        slots = torch.from_file(path, shared=True, size=count).view(2, self.size, length)
        self.agree()
        if self.leads:
            os.unlink(path)
        return slots


@contextmanager
def lead(size: int, briefing: dict[str, Any]) -> Iterator[Team]:
    """A team of `size`: this process and its followers, each of which is given `briefing` and its rank."""
    if size == 1:
        yield Team(0, 1)
        return
    with workers("verbot.training.follower", size - 1, "training process") as followers:
        for rank, follower in enumerate(followers, 1):
            follower.send({**briefing, "rank": rank, "size": size})
        yield Team(0, size, followers=followers)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Compute with `count` threads inside the block, as before after it."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shared_file(size: int) -> str:
    memory = Path("/dev/shm")
    status = os.statvfs(memory) if memory.is_dir() else None
    fits = status is not None and status.f_bavail * status.f_frsize > 2 * size
    handle, path = tempfile.mkstemp(prefix="verbot-", dir=memory if fits else None)
    with os.fdopen(handle, "wb") as file:
        file.truncate(size)
    return path
