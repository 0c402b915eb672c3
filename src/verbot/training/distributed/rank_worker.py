"""A training process of another rank: ``python -m verbot.training.distributed.rank_worker``, started by rank 0."""

from __future__ import annotations

from pathlib import Path

from verbot.configuration import build
from verbot.parallel.workers import Channel, serve
from verbot.training.distributed.device import find_device
from verbot.training.distributed.process_group import ProcessGroup, collective
from verbot.training.imitation.config import TrainConfig
from verbot.training.imitation.loop import run


def work(channel: Channel) -> None:
    setup = channel.receive()
    rank, size, backend = setup["rank"], setup["size"], setup["backend"]
    config, process_group = (
        build(TrainConfig, setup["config"]),
        ProcessGroup(rank, size, main=channel, collective=backend is not None),
    )
    device = find_device(config.parallelism.device, rank, size)
    with collective(backend, setup["rendezvous"], rank, size, device):
        run(config, Path(setup["out"]), process_group, stop_at=setup["stop_at"])


if __name__ == "__main__":
    serve(work)
