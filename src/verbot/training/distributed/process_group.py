"""Data parallelism over processes: equal copies of the network, each on its slice of the same batch.

Gradients are averaged through shared memory, and a pipe to each rank worker is the barrier: gloo over loopback took five
milliseconds for the same vector, the exit of a rank worker is noticed at once, and two processes of one thread train faster
than one process of two. GPUs, one for each process, average by nccl. Processes that torchrun started
(`verbot.training.distributed.launch`), on one machine or several, use the process group of torch.distributed alone, by gloo
or nccl.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from verbot.errors import TrainingError
from verbot.parallel.workers import Channel, Worker, WorkerError, workers

COLLECTIVE = {"cuda": "nccl"}  # of torch.distributed; other devices average through shared memory
SHARDING = {"cpu": "gloo", "cuda": "nccl"}  # backends for sharded weights
PATIENCE = timedelta(minutes=5)  # the timeout of a collective


class ProcessGroup:
    """The processes that train together. Rank 0 is the process that the user started.

    Every process makes the same calls in the same order.

    Args:
        main: the pipe to rank 0, in the other ranks that it started.
        collective: tensors are averaged by the open process group of torch.distributed, not through shared memory.
        joined: `broadcast` uses that group too, since there are no pipes between processes that torchrun started.
        local_rank: (rank, number of processes) on this machine; None if all processes are on it.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        rank_workers: list[Worker] | None = None,
        main: Channel | None = None,
        collective: bool = False,
        joined: bool = False,
        local_rank: tuple[int, int] | None = None,
    ):
        self.rank, self.size, self.local_rank = rank, size, local_rank or (rank, size)
        self._joined = joined
        self._rank_workers, self._main, self._collective = rank_workers or [], main, collective
        self._slots = torch.empty(0)
        self._turn = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def broadcast(self, value: Any = None) -> Any:
        """Rank 0's value, in every process; also a barrier. Raises `TrainingError` in rank 0 if a rank worker has exited."""
        if self._joined:
            return self._broadcast_collective(value)
        if self._main is not None:
            self._main.send(None)
            return self._main.receive()
        try:
            for rank_worker in self._rank_workers:
                rank_worker.receive()
            for rank_worker in self._rank_workers:
                rank_worker.send(value)
        except WorkerError as error:
            raise TrainingError(f"training stopped because one of its processes did: {error}") from error
        return value

    def average(self, *vectors: Tensor) -> None:
        """In place, the mean over all processes of each vector (n,); identical bits in every process."""
        if self.size == 1:
            return
        joined = vectors[0] if len(vectors) == 1 else torch.cat(vectors)
        if self._collective:
            if not self._joined:
                self.broadcast()  # raises if a rank worker has exited, which the collective would wait for
            with _naming_lost_process():
                torch.distributed.all_reduce(joined)
        else:
            self._sum(joined)
        joined.div_(self.size)
        for vector, mean in zip(vectors, joined.split([len(v) for v in vectors]), strict=True):
            vector.copy_(mean)

    def all(self, mine: bool) -> bool:
        """Whether `mine` is true in every process."""
        if self.size == 1:
            return mine
        share = torch.tensor([float(mine)], device=self._device())
        self.average(share)
        return bool(share[0] == 1.0)

    def _device(self) -> torch.device:
        """The device of small tensors that are averaged."""
        nccl = self._collective and not self._joined and torch.distributed.get_backend() == "nccl"
        return torch.device("cuda") if nccl else torch.device("cpu")

    def _broadcast_collective(self, value: Any) -> Any:
        """As `broadcast`, of a JSON value, by torch.distributed."""
        content = json.dumps(value).encode() if self.is_main and value is not None else b""
        length = torch.tensor([len(content)])
        with _naming_lost_process():
            torch.distributed.all_reduce(length)  # a barrier
            if not length:
                return None
            data = torch.tensor(list(content), dtype=torch.uint8) if self.is_main else torch.empty(int(length), dtype=torch.uint8)
            torch.distributed.broadcast(data, 0)
        return json.loads(bytes(data.tolist()))

    def _sum(self, joined: Tensor) -> None:
        """In place, through shared memory."""
        if self._slots.shape[-1] < len(joined):
            self._slots = self._share(len(joined))
        # Two sets of slots alternate: a process past the next barrier has finished reading this one.
        slots, self._turn = self._slots[self._turn, :, : len(joined)], 1 - self._turn
        slots[self.rank].copy_(joined)
        self.broadcast()
        torch.add(slots[0], slots[1], out=joined)
        for slot in slots[2:]:
            joined.add_(slot)

    def _share(self, length: int) -> Tensor:
        """Float32 (2, size, length) in memory that all processes share; its file is unlinked as soon as possible."""
        count = 2 * self.size * length
        path = self.broadcast(_shared_file(4 * count) if self.is_main else None)
        slots = torch.from_file(path, shared=True, size=count).view(2, self.size, length)
        self.broadcast()
        if self.is_main:
            os.unlink(path)
        return slots


@contextmanager
def open_process_group(size: int, setup: dict[str, Any], device: torch.device, sharded: bool = False) -> Iterator[ProcessGroup]:
    """A process group of `size`: this process, on `device`, and its rank workers, each of which is sent `setup` and its rank.

    Args:
        sharded: the weights are sharded, which needs a process group of torch.distributed on every device.
    """
    if size == 1 and not sharded:
        yield ProcessGroup(0, 1)
        return
    backend = (SHARDING if sharded else COLLECTIVE).get(device.type)
    with tempfile.TemporaryDirectory(prefix="verbot-") as folder:
        rendezvous = str(Path(folder) / "rendezvous")
        with workers("verbot.training.distributed.rank_worker", size - 1, "training process") as rank_workers:
            for rank, rank_worker in enumerate(rank_workers, 1):
                rank_worker.send({**setup, "backend": backend, "rendezvous": rendezvous, "rank": rank, "size": size})
            with collective(backend, rendezvous, 0, size, device):
                yield ProcessGroup(0, size, rank_workers=rank_workers, collective=backend is not None)


@contextmanager
def collective(backend: str | None, rendezvous: str, rank: int, size: int, device: torch.device) -> Iterator[None]:
    """Inside the block, a process group of torch.distributed, joined through the file `rendezvous`; none without a `backend`."""
    if backend is None:
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.distributed.init_process_group(
        backend, init_method=f"file://{rendezvous}", rank=rank, world_size=size, timeout=PATIENCE
    )
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _naming_lost_process() -> Iterator[None]:
    """Report a broken collective as what it is: a process that has exited."""
    try:
        yield
    except RuntimeError as error:
        raise TrainingError(f"training stopped because one of its processes did: {error}") from error


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
