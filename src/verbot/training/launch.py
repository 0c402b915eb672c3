"""Training that somebody else has started the processes of: ``torchrun``, on one machine or several."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch

from verbot.errors import ConfigError
from verbot.training.distributed import Team

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# While the leader decodes or gathers; a member that dies is noticed by torchrun.
PATIENCE = timedelta(hours=1)


@dataclass(frozen=True)
class Launch:
    """This process among those that torchrun started: the `rank`-th of `size`, the `local_rank`-th of those on this machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def launched(environment: Mapping[str, str] = os.environ) -> Launch | None:
    """What torchrun says in the environment, or None where it did not start this process.

    Raises `ConfigError` where the environment says only some of it.

    Example:
        >>> launched({"PATH": "/bin"}) is None
        True
    """
    told = [name for name in NAMES if name in environment]
    if "RANK" not in told or "WORLD_SIZE" not in told:  # MASTER_ADDR alone may stand in anybody's environment
        return None
    if missing := [name for name in NAMES if name not in told]:
        raise ConfigError(
            f"the environment says {', '.join(told)} but not {', '.join(missing)}: start training with torchrun, which says all"
        )
    return Launch(*(int(environment[name]) for name in NAMES[:4]))


@contextmanager
def join(launch: Launch, device: torch.device) -> Iterator[Team]:
    """The team of all that torchrun started, inside the block."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, rank=launch.rank, world_size=launch.size, timeout=PATIENCE)
    yield Team(launch.rank, launch.size, collective=True, joined=True, seat=(launch.local_rank, launch.local_size))
    torch.distributed.destroy_process_group()  # after an error others may be gone, who would be waited for
