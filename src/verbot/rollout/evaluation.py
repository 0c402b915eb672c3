"""What a worker does for an evaluation: it plays episodes, times predictions and renders videos."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from verbot.contracts import Env
from verbot.rollout.baselines import AgentFactory, PolicySource
from verbot.rollout.replay import episode_video
from verbot.rollout.results import EpisodeResult, Job
from verbot.rollout.vector import EnvFactories, VectorRunner


@dataclass(frozen=True)
class Ready:
    """Is answered with itself as soon as the policy is loaded."""


@dataclass(frozen=True)
class NoMoreJobs:
    """The worker finishes the episodes that it has begun. It has no answer."""


@dataclass(frozen=True)
class TimePredictions:
    """Asks for the seconds of `count` single predictions, made while playing `jobs`."""

    jobs: tuple[Job, ...]
    count: int


@dataclass(frozen=True)
class RecordVideo:
    """Asks for the mp4 of an episode that was played with these actions (`EpisodeResult.actions`)."""

    job: Job
    actions: str


EvaluationRequest = Job | NoMoreJobs | TimePredictions | RecordVideo | Ready


@dataclass(frozen=True)
class EvaluationSetup:
    """A worker that answers `EvaluationRequest`s; consecutive jobs are played side by side and answered as they end.

    Args:
        factories: of the env.
        policy: plays every job whose agent is not scripted.
        make_agent: wraps the policy for one episode.
        slots: episodes under way at once.
        sample: the policy's actions are drawn from its head's distribution (see `VectorRunner`).

    `open` raises what loading the policy does, and `SpecError` where it does not fit the env.
    """

    factories: EnvFactories
    policy: PolicySource | None
    make_agent: AgentFactory
    slots: int
    sample: bool = False

    @contextlib.contextmanager
    def open(self) -> Iterator[EvaluationService]:
        yield EvaluationService(self)


class EvaluationService:
    """The service of an `EvaluationSetup`."""

    def __init__(self, setup: EvaluationSetup):
        self._factories, policy = setup.factories, setup.policy.load() if setup.policy else None
        self._runner = VectorRunner(setup.factories, policy, setup.make_agent, setup.slots, setup.sample)
        self._runner.check()
        self._rendering: Env | None = None

    def answers(self, requests: Iterator[EvaluationRequest]) -> Iterator[Any]:
        for kind, group in itertools.groupby(requests, type):
            if kind is Job:
                yield from self._results(group)
            else:
                for request in group:
                    yield from self._answer(request)

    def _results(self, jobs: Iterator[Any]) -> Iterator[EpisodeResult]:
        return self._runner.play(jobs)

    def _answer(self, request: EvaluationRequest) -> Iterator[Any]:
        match request:
            case Ready():
                yield request
            case TimePredictions(jobs, count):
                yield self._runner.time_predictions(jobs, count)
            case RecordVideo(job, actions):
                self._rendering = self._rendering or self._factories.rendering()
                yield episode_video(self._rendering, job, actions)
