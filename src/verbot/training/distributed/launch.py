"""Training in processes that ``torchrun`` started, on one machine or several."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch

from verbot.errors import ConfigError
from verbot.training.distributed.process_group import ProcessGroup

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# Covers decoding and collection in rank 0; torchrun detects processes that die.
PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Launch:
    """This process among those that torchrun started: the `rank`-th of `size`, the `local_rank`-th of those on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """The ranks that torchrun sets in the environment, or None if it did not start this process.

    Raises `ConfigError` if the environment sets only some of the variables.

    Example:
        >>> launched({"PATH": "/bin"}) is None
        True
    """
    given = [name for name in NAMES if name in environment]
    if "RANK" not in given or "WORLD_SIZE" not in given:  # MASTER_ADDR alone may be set for other reasons
        return None
    if missing := [name for name in NAMES if name not in given]:
        raise ConfigError(
            f"the environment sets {', '.join(given)} but not {', '.join(missing)}: start training with torchrun, which sets all"
        )
    return Launch(*(int(environment[name]) for name in NAMES[:4]))


@contextmanager
def join(launch: Launch, device: torch.device) -> Iterator[ProcessGroup]:
    """The process group of all processes that torchrun started, inside the block."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store, *_ = next(torch.distributed.rendezvous("env://", launch.rank, launch.size, timeout=PATIENCE))
    rendezvous = torch.distributed.PrefixStore(meet(store, launch.rank, launch.size), store)
    torch.distributed.init_process_group(backend, store=rendezvous, rank=launch.rank, world_size=launch.size, timeout=PATIENCE)
    yield ProcessGroup(launch.rank, launch.size, collective=True, joined=True, local_rank=(launch.local_rank, launch.local_size))
    torch.distributed.destroy_process_group()  # not after an error: processes that have exited would be waited for


def meet(store: torch.distributed.Store, rank: int, size: int) -> str:
    """A new prefix for the keys of these `size` processes in `store`, which no earlier processes used.

    After a restart torchrun's store still holds the addresses of processes that died, and machines disagree on the number of
    restarts. So each process calls with a new random number. Rank 0 answers every call that it finds, and waits until all
    processes have confirmed its answer.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"call/{rank}", mine)
        name = store.get(f"answer/{rank}/{mine}").decode()  # waits for it
        store.set(f"confirmed/{name}/{rank}", "")
        return name
    answered: dict[int, bytes] = {}
    while not store.check([f"confirmed/{mine}/{other}" for other in range(1, size)]):
        for other in range(1, size):
            if store.check([f"call/{other}"]) and (call := store.get(f"call/{other}")) != answered.get(other):
                store.set(f"answer/{other}/{call.decode()}", mine)
                answered[other] = call
        time.sleep(0.02)
    return mine
