"""What a worker process is asked to do, and how it answers."""

from __future__ import annotations

from dataclasses import dataclass

from verbot.contracts import Env
from verbot.evaluation.players import AgentFactory, PolicySource
from verbot.evaluation.results import Job
from verbot.evaluation.rollout import Stage, Worlds
from verbot.evaluation.video import film_episode
from verbot.processes import Channel


@dataclass(frozen=True)
class Setup:
    """What a worker needs before its first episode; it crosses a pipe, so everything in it must survive pickling."""

    worlds: Worlds
    policy: PolicySource | None
    make_agent: AgentFactory
    slots: int


@dataclass(frozen=True)
class TimePredictions:
    """Asks for the seconds of `count` single predictions, made while playing `jobs`."""

    jobs: tuple[Job, ...]
    count: int


@dataclass(frozen=True)
class Film:
    """Asks for the mp4 of an episode that was played with these actions."""

    job: Job
    actions: str


def work(channel: Channel) -> None:
    """A setup, then jobs until None, each answered with its result, then errands, each answered."""
    setup: Setup = channel.receive()
    stage = Stage(setup.worlds, setup.policy.load() if setup.policy else None, setup.make_agent, setup.slots)
    stage.check()
    channel.send("ready")
    for result in stage.play(iter(channel.receive, None)):
        channel.send(result)
    filmed: Env | None = None
    while True:
        errand = channel.receive()
        if isinstance(errand, TimePredictions):
            channel.send(stage.time_predictions(errand.jobs, errand.count))
        else:
            filmed = filmed or setup.worlds.filmed()
            channel.send(film_episode(filmed, errand.job, errand.actions))
