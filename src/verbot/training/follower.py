"""A follower of a training team: ``python -m verbot.training.follower``, started by `distributed.lead`."""

from __future__ import annotations

from pathlib import Path

from verbot.configuration import build
from verbot.processes import Channel, serve
from verbot.training.config import TrainConfig
from verbot.training.distributed import Team
from verbot.training.loop import run


def follow(channel: Channel) -> None:
    briefing = channel.receive()
    team = Team(briefing["rank"], briefing["size"], leader=channel)
    run(build(TrainConfig, briefing["config"]), Path(briefing["out"]), team, stop_at=briefing["stop_at"])


if __name__ == "__main__":
    serve(follow)
