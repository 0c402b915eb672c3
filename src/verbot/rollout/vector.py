"""Parallel episodes in one process, with one batched prediction for all episodes that need a chunk."""

from __future__ import annotations

import dataclasses
import functools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from verbot.agents.malformed import is_malformed
from verbot.agents.sampling import SamplingAgent
from verbot.contracts import Agent, ChunkedAgent, Env, Policy, TaskEnv
from verbot.errors import SimulationError, SpecError
from verbot.rollout.baselines import POLICY_FREE_AGENTS, AgentFactory, scripted
from verbot.rollout.delay import NO_DELAY, Delay, DelayedAnswers, DelayedPolicy, deliver
from verbot.rollout.episode import EpisodeRunner
from verbot.rollout.results import EpisodeResult, Job, Outcome, encode_actions
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec

MakeEnv = Callable[..., TaskEnv]


@dataclass
class EpisodeSlot:
    """A slot of a `VectorRunner`: an episode, its agent, the answers that it waits for, and the actions executed so far."""

    job: Job
    episode: EpisodeRunner
    agent: Agent
    answers: DelayedAnswers | None = None  # None: the policy answers at once
    actions: list[FloatArray] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)
    malformed: int = 0  # answers that meant no actions

    @staticmethod
    def begin(job: Job, env: Env, make_agent: Callable[[Job], Agent], delay: Delay = NO_DELAY) -> EpisodeSlot:
        episode = EpisodeRunner(env, job.request, job.seed)
        agent = scripted(job.agent, env, job.key) or make_agent(job)
        agent.reset(episode.instruction)
        return EpisodeSlot(job, episode, agent, None if delay.is_none else DelayedAnswers(delay, job.key))

    def next_query(self) -> Observation | None:
        """The observation for the next prediction, or None if none is due."""
        return self.agent.next_query(self.episode.observation) if isinstance(self.agent, ChunkedAgent) else None

    def answer(self, chunk: ActionChunk) -> None:
        """The policy answers the query of this step with `chunk`, which the agent gets when the delay has passed."""
        self.malformed += is_malformed(chunk)
        if self.answers is None:
            cast(ChunkedAgent, self.agent).receive(chunk)
        else:
            self.answers.send(chunk, self.episode.steps)
            self.deliver()

    def deliver(self) -> None:
        """Give the agent the answers that have arrived by this step."""
        if self.answers is not None and isinstance(self.agent, ChunkedAgent):
            deliver(self.agent, self.answers, self.episode.steps)

    def step(self) -> EpisodeResult | None:
        """Execute one action and return the result if the episode ended. Raises `SimulationError` on a simulator fault."""
        action = self.agent.act(self.episode.observation)
        self.actions.append(np.array(action, np.float32))
        transition = self.episode.step(action)
        if transition.fault is not None:
            raise SimulationError(transition.fault)
        return self.result("success" if transition.info["success"] else "failure") if transition.over else None

    def result(self, outcome: Outcome, error: str | None = None) -> EpisodeResult:
        seconds = time.monotonic() - self.started
        found = make_result(self.job, self.episode.info, outcome, error, self.actions, seconds)
        return dataclasses.replace(found, malformed=self.malformed)


@dataclass(frozen=True)
class EnvFactories:
    """Builds the same env for three uses: with camera images, without images, and for rendering videos."""

    with_cameras: MakeEnv
    without_cameras: MakeEnv
    rendering: MakeEnv

    @staticmethod
    def of(make: MakeEnv) -> EnvFactories:
        """Derive all three from one factory; it is used unchanged if it lacks the option for a use."""
        return EnvFactories(make, _with(make, render_cameras=False), _with(make, render_mode="rgb_array"))


class VectorRunner:
    """Runs episodes in `slots` parallel envs.

    An exception of an env, an agent or the policy turns only its episode into an *error*, and its env is replaced. All batches
    are padded to `slots` observations: rounding depends on the batch shape, so without padding an episode would depend on the
    number of parallel ones.

    Args:
        factories: build the envs.
        policy: the policy of all jobs whose agent is not scripted.
        make_agent: wraps the policy for one episode.
        slots: number of parallel episodes.
        sample: draw actions from the distribution of the policy's head, as a function of the job and the step.
        delay: how long each answer of the policy takes; the env is stepped meanwhile. It needs agents that can wait, such as
            `verbot.agents.RealTimeAgent`; others raise `ConfigError`, which is an *error* of their episodes.
    """

    def __init__(
        self,
        factories: EnvFactories,
        policy: Policy | None,
        make_agent: AgentFactory,
        slots: int,
        sample: bool = False,
        delay: Delay = NO_DELAY,
    ):
        self._factories, self._policy, self._make_agent, self._slots = factories, policy, make_agent, slots
        self._sample, self._delay = sample, delay
        self._idle: dict[bool, list[Env]] = {True: [], False: []}  # True: with cameras

    def check(self) -> None:
        """Raise `SpecError` unless the policy's cameras, state and action match those of the env, `ConfigError` without an agent.

        Some agents need more of a policy than others, and raise what it lacks when they are made.
        """
        if self._policy is None:
            return
        self._wrapped(self._policy)
        env = self._factories.with_cameras()
        self._idle[True].append(env)
        check_fits(self._policy.spec, env.robot_spec)

    def play(self, jobs: Iterable[Job]) -> Iterator[EpisodeResult]:
        """Yield results in the order in which episodes end."""
        waiting, live, more = iter(jobs), list[EpisodeSlot](), True
        while True:
            while more and len(live) < self._slots:
                job = next(waiting, None)
                if job is None:
                    more = False
                elif isinstance(started := self._begin(job), EpisodeSlot):
                    live.append(started)
                else:
                    yield started
            if not live:
                return
            failed, queries = _queries(live)
            failed |= self._predict(queries, self._slots)
            for episode in list(live):
                result = self._step(episode, failed.get(id(episode)))
                if result is not None:
                    live.remove(episode)
                    yield result

    def time_predictions(self, jobs: Iterable[Job], count: int) -> list[float]:
        """Seconds of `count` predictions from one observation each, measured while acting, after three for warm-up."""
        seconds: list[float] = []
        for job in jobs:
            started = self._begin(job)
            while isinstance(started, EpisodeSlot):
                failed, queries = _queries([started])
                if queries:
                    start = time.perf_counter()
                    failed |= self._predict(queries, 1)
                    seconds.append(time.perf_counter() - start)
                if len(seconds) >= count + 3:
                    self._release(started)
                    return seconds[3:]
                if self._step(started, failed.get(id(started))) is not None:
                    break
        return seconds[3:]

    def _begin(self, job: Job) -> EpisodeSlot | EpisodeResult:
        needs_images = job.agent not in POLICY_FREE_AGENTS
        idle = self._idle[needs_images]
        env = idle.pop() if idle else (self._factories.with_cameras if needs_images else self._factories.without_cameras)()
        try:
            return EpisodeSlot.begin(job, env, self._new_agent, self._delay)
        except Exception as error:
            env.close()
            return make_result(job, {}, "error", _message(error))

    def _new_agent(self, job: Job) -> Agent:
        if self._policy is None:
            raise SimulationError("this runner has no policy")
        agent = self._wrapped(self._policy)
        return SamplingAgent(agent, zlib.crc32(job.key.encode())) if self._sample else agent

    def _wrapped(self, policy: Policy) -> ChunkedAgent:
        return self._make_agent(policy if self._delay.is_none else DelayedPolicy(policy))

    def _predict(self, queries: Sequence[tuple[EpisodeSlot, Observation]], batch: int) -> dict[int, Exception]:
        """Answer the queries by one prediction, in a batch of `batch`. Returns exceptions by episode."""
        failed: dict[int, Exception] = {}
        if not queries or self._policy is None:
            return failed
        observations = [query for _, query in queries]
        try:
            chunks: list[ActionChunk] | None = self._policy.predict(_padded(observations, batch))
        except Exception:
            chunks = None  # predict one by one below, to find the observation that failed
        for number, (episode, query) in enumerate(queries):
            try:
                chunk = chunks[number] if chunks is not None else self._policy.predict(_padded([query], batch))[0]
                episode.answer(chunk)
            except Exception as error:
                failed[id(episode)] = error
        return failed

    def _step(self, slot: EpisodeSlot, failed: Exception | None) -> EpisodeResult | None:
        try:
            if failed is not None:
                raise failed
            result = slot.step()
        except Exception as error:
            slot.episode.env.close()
            return slot.result("error", _message(error))
        if result is not None:
            self._release(slot)
        return result

    def _release(self, slot: EpisodeSlot) -> None:
        self._idle[slot.job.agent not in POLICY_FREE_AGENTS].append(slot.episode.env)


def _queries(live: Iterable[EpisodeSlot]) -> tuple[dict[int, Exception], list[tuple[EpisodeSlot, Observation]]]:
    """Give each agent the answers that have arrived, then take its query. Returns exceptions by episode, and the queries."""
    failed, queries = dict[int, Exception](), list[tuple[EpisodeSlot, Observation]]()
    for slot in live:
        try:
            slot.deliver()
            query = slot.next_query()
        except Exception as error:
            failed[id(slot)] = error
        else:
            queries += [] if query is None else [(slot, query)]
    return failed, queries


def make_result(
    job: Job,
    info: Mapping[str, Any],
    outcome: Outcome,
    error: str | None = None,
    actions: Iterable[FloatArray] = (),
    seconds: float = 0.0,
) -> EpisodeResult:
    """The result of an episode, one line of ``results.jsonl``."""
    actions, distance = list(actions), info.get("final_error_m")
    return EpisodeResult(
        key=job.key,
        agent=job.agent,
        task=str(job.request.task or info.get("goal", {}).get("verb", "")),
        index=job.request.index,
        goal_index=job.request.goal,
        instruction=str(info.get("instruction", "")),
        goal=dict(info.get("goal", {})),
        target_object=info.get("target_object"),
        first_contact=info.get("first_contact"),
        outcome=outcome,
        steps=len(actions),
        final_error_m=float(distance) if distance is not None and np.isfinite(distance) else None,
        seconds=round(seconds, 4),
        error=error,
        axes=dict(job.request.axes),
        actions=encode_actions(actions),
    )


def _padded(observations: list[Observation], batch: int) -> list[Observation]:
    """Pad to `batch` observations by repeating the first."""
    return observations + observations[:1] * (batch - len(observations))


def _with(make: MakeEnv, **option: Any) -> MakeEnv:
    with_option = functools.partial(make, **option)
    try:
        with_option().close()
    except TypeError:
        return make
    return with_option


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def check_fits(expected: RobotSpec, actual: RobotSpec) -> None:
    """Raise `SpecError` unless an env, whose robot is `actual`, has what a policy for the robot `expected` sees and does."""
    sizes = {camera.name: (camera.height, camera.width) for camera in actual.cameras}
    for camera in expected.cameras:
        if sizes.get(camera.name) != (camera.height, camera.width):
            raise SpecError(
                f"the policy was trained for camera {camera.name!r} of {camera.height}×{camera.width}; the env has "
                f"{', '.join(f'{name!r} of {h}×{w}' for name, (h, w) in sizes.items())}. Set the env's options to match"
            )
    if (expected.state_size, expected.action_size) != (actual.state_size, actual.action_size):
        raise SpecError(
            f"the policy was trained for {expected.state_size} state and {expected.action_size} action numbers; "
            f"the env has {actual.state_size} and {actual.action_size}"
        )
