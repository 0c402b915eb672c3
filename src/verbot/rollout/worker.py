"""What a worker process is asked to do, and how it answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from verbot.contracts import Env
from verbot.parallel.workers import Channel
from verbot.rollout.baselines import AgentFactory, PolicySource
from verbot.rollout.replay import film_episode
from verbot.rollout.results import Job
from verbot.rollout.vector import Stage, Worlds


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


class Player:
    """Plays and runs errands in one process. Raises what loading the policy does, and `SpecError` where it does not fit."""

    def __init__(self, setup: Setup):
        self._setup, policy = setup, setup.policy.load() if setup.policy else None
        self.stage = Stage(setup.worlds, policy, setup.make_agent, setup.slots)
        self.stage.check()
        self._filmed: Env | None = None

    def run(self, errand: Film | TimePredictions) -> Any:
        """The film's mp4, or the seconds."""
        if isinstance(errand, TimePredictions):
            return self.stage.time_predictions(errand.jobs, errand.count)
        self._filmed = self._filmed or self._setup.worlds.filmed()
        return film_episode(self._filmed, errand.job, errand.actions)

    def answer(self, batch: Sequence[Job | Film | TimePredictions]) -> list[Any]:
        """The results of jobs, as they end, then of errands, in order."""
        jobs = [each for each in batch if isinstance(each, Job)]
        return [*self.stage.play(jobs), *(self.run(each) for each in batch if not isinstance(each, Job))]


def work(channel: Channel) -> None:
    """A setup, then jobs until None, each answered with its result, then errands, each answered."""
    player = Player(channel.receive())
    channel.send("ready")
    for result in player.stage.play(iter(channel.receive, None)):
        channel.send(result)
    while True:
        channel.send(player.run(channel.receive()))


def answerer(setup: Setup) -> Callable[[Sequence[Any]], list[Any]]:
    """What answers a batch on a cluster."""
    return Player(setup).answer
