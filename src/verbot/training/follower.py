"""A follower of a training team: ``python -m verbot.training.follower``, started by `distributed.lead`."""

from __future__ import annotations

from pathlib import Path

from verbot.configuration import build
from verbot.processes import Channel, serve
from verbot.training.config import TrainConfig
from verbot.training.device import find_device
from verbot.training.distributed import Team, collective
from verbot.training.loop import run


def follow(channel: Channel) -> None:
    briefing = channel.receive()
    rank, size, backend = briefing["rank"], briefing["size"], briefing["backend"]
    config, team = build(TrainConfig, briefing["config"]), Team(rank, size, leader=channel, collective=backend is not None)
    device = find_device(config.device, rank, size)
    with collective(backend, briefing["meeting"], rank, size, device):
        run(config, Path(briefing["out"]), team, stop_at=briefing["stop_at"])


if __name__ == "__main__":
    serve(follow)
