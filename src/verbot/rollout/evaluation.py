"""The worker of an evaluation: it runs episodes, times predictions and renders videos."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from verbot.contracts import Env
from verbot.rollout.baselines import AgentFactory, PolicySource
from verbot.rollout.delay import NO_DELAY, Delay
from verbot.rollout.replay import episode_video
from verbot.rollout.results import EpisodeResult, Job
from verbot.rollout.vector import EnvFactories, VectorRunner


@dataclass(frozen=True)
class Ready:
    """Request that is answered with itself once the policy is loaded."""


@dataclass(frozen=True)
class NoMoreJobs:
    """No jobs follow: the worker completes its running episodes. There is no answer."""


@dataclass(frozen=True)
class TimePredictions:
    """Request: the seconds of `count` single predictions, measured while running `jobs`."""

    jobs: tuple[Job, ...]
    count: int


@dataclass(frozen=True)
class RecordVideo:
    """Request: the mp4 of an episode with these recorded actions (`EpisodeResult.actions`)."""

    job: Job
    actions: str


EvaluationRequest = Job | NoMoreJobs | TimePredictions | RecordVideo | Ready


@dataclass(frozen=True)
class EvaluationSetup:
    """A worker that answers `EvaluationRequest`s; consecutive jobs run in parallel and are answered as they end.

    Args:
        factories: build the env.
        policy: the policy of all jobs whose agent is not scripted.
        make_agent: wraps the policy for one episode.
        slots: number of parallel episodes.
        sample: draw actions from the distribution of the policy's head (see `VectorRunner`).
        delay: how long each answer of the policy takes (see `VectorRunner`).

    `open` raises the errors of loading the policy, `SpecError` if it does not fit the env, and `ConfigError` if not the agent.
    """

    factories: EnvFactories
    policy: PolicySource | None
    make_agent: AgentFactory
    slots: int
    sample: bool = False
    delay: Delay = NO_DELAY

    @contextlib.contextmanager
    def open(self) -> Iterator[EvaluationService]:
        yield EvaluationService(self)


class EvaluationService:
    """The service of an `EvaluationSetup`."""

    def __init__(self, setup: EvaluationSetup):
        self._factories, policy = setup.factories, setup.policy.load() if setup.policy else None
        self._runner = VectorRunner(setup.factories, policy, setup.make_agent, setup.slots, setup.sample, setup.delay)
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
