"""Many episodes side by side in one process, with one batched prediction for all that need a chunk."""

from __future__ import annotations

import functools
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from verbot.agents.sampling import SamplingAgent
from verbot.contracts import Agent, ChunkedAgent, Env, Policy, TaskEnv
from verbot.errors import SimulationError, SpecError
from verbot.rollout.baselines import SCRIPTED, AgentFactory, scripted
from verbot.rollout.episode import RunningEpisode
from verbot.rollout.results import EpisodeResult, Job, Outcome, encode_actions
from verbot.spec import ActionChunk, FloatArray, Observation

MakeEnv = Callable[..., TaskEnv]


@dataclass
class LiveEpisode:
    """One episode under way, its agent, and the actions executed so far."""

    job: Job
    episode: RunningEpisode
    agent: Agent
    actions: list[FloatArray] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @staticmethod
    def begin(job: Job, env: Env, make_agent: Callable[[Job], Agent]) -> LiveEpisode:
        episode = RunningEpisode(env, job.request, job.seed)
        agent = scripted(job.agent, env, job.key) or make_agent(job)
        agent.reset(episode.instruction)
        return LiveEpisode(job, episode, agent)

    def next_query(self) -> Observation | None:
        """What the policy should predict from, where this episode needs a chunk."""
        return self.agent.next_query(self.episode.observation) if isinstance(self.agent, ChunkedAgent) else None

    def step(self) -> EpisodeResult | None:
        """Act once. The result when that ended the episode. Raises `SimulationError` on a fault of the simulator."""
        action = self.agent.act(self.episode.observation)
        self.actions.append(np.array(action, np.float32))
        transition = self.episode.step(action)
        if transition.fault is not None:
            raise SimulationError(transition.fault)
        return self.result("success" if transition.info["success"] else "failure") if transition.over else None

    def result(self, outcome: Outcome, error: str | None = None) -> EpisodeResult:
        return describe(self.job, self.episode.info, outcome, error, self.actions, time.monotonic() - self.started)


@dataclass(frozen=True)
class EnvFactories:
    """Makes the same env for three uses: for a policy that sees, for agents that need no images, and for videos."""

    with_cameras: MakeEnv
    without_cameras: MakeEnv
    rendering: MakeEnv

    @staticmethod
    def of(make: MakeEnv) -> EnvFactories:
        """From one factory; where it has no option for a use, it serves unchanged."""
        return EnvFactories(make, _with(make, render_cameras=False), _with(make, render_mode="rgb_array"))


class VectorRunner:
    """Plays episodes in `slots` envs at once.

    An exception of an env, an agent or the policy makes that one episode an *error*; its env is then replaced. Every batch is
    filled up to `slots`: the rounding of a matrix product depends on its shape, so an episode is the same to the bit whatever
    is played beside it.

    Args:
        factories: make the envs.
        policy: plays every job whose agent is not scripted.
        make_agent: wraps the policy for one episode.
        slots: episodes under way at once.
        sample: draw the policy's actions from its head's distribution, as a function of the job and the step.
    """

    def __init__(
        self, factories: EnvFactories, policy: Policy | None, make_agent: AgentFactory, slots: int, sample: bool = False
    ):
        self._factories, self._policy, self._make_agent, self._slots = factories, policy, make_agent, slots
        self._sample = sample
        self._idle: dict[bool, list[Env]] = {True: [], False: []}  # by whether they have cameras

    def check(self) -> None:
        """Raise `SpecError` unless the policy was made for what the env shows and takes."""
        if self._policy is None:
            return
        env = self._factories.with_cameras()
        self._idle[True].append(env)
        made_for, has = self._policy.spec, env.robot_spec
        sizes = {camera.name: (camera.height, camera.width) for camera in has.cameras}
        for camera in made_for.cameras:
            if sizes.get(camera.name) != (camera.height, camera.width):
                raise SpecError(
                    f"the policy was made for camera {camera.name!r} of {camera.height}×{camera.width}; the env has "
                    f"{', '.join(f'{name!r} of {h}×{w}' for name, (h, w) in sizes.items())}. Choose the env's options to fit"
                )
        if (made_for.state_size, made_for.action_size) != (has.state_size, has.action_size):
            raise SpecError(
                f"the policy was made for {made_for.state_size} state and {made_for.action_size} action numbers; "
                f"the env has {has.state_size} and {has.action_size}"
            )

    def play(self, jobs: Iterable[Job]) -> Iterator[EpisodeResult]:
        """Results in the order in which the episodes end."""
        waiting, live, more = iter(jobs), list[LiveEpisode](), True
        while True:
            while more and len(live) < self._slots:
                job = next(waiting, None)
                if job is None:
                    more = False
                elif isinstance(begun := self._begin(job), LiveEpisode):
                    live.append(begun)
                else:
                    yield begun
            if not live:
                return
            failed = self._predict(live, self._slots)
            for episode in list(live):
                result = self._step(episode, failed.get(id(episode)))
                if result is not None:
                    live.remove(episode)
                    yield result

    def time_predictions(self, jobs: Iterable[Job], count: int) -> list[float]:
        """Seconds of `count` predictions from one observation each, made while acting, after three to warm up."""
        seconds: list[float] = []
        for job in jobs:
            begun = self._begin(job)
            while isinstance(begun, LiveEpisode):
                fault: Exception | None = None
                if begun.next_query() is not None:
                    start = time.perf_counter()
                    fault = self._predict([begun], 1).get(id(begun))
                    seconds.append(time.perf_counter() - start)
                if len(seconds) >= count + 3:
                    self._release(begun)
                    return seconds[3:]
                if self._step(begun, fault) is not None:
                    break
        return seconds[3:]

    def _begin(self, job: Job) -> LiveEpisode | EpisodeResult:
        seeing = job.agent not in SCRIPTED
        idle = self._idle[seeing]
        env = idle.pop() if idle else (self._factories.with_cameras if seeing else self._factories.without_cameras)()
        try:
            return LiveEpisode.begin(job, env, self._new_agent)
        except Exception as error:
            env.close()
            return describe(job, {}, "error", _message(error))

    def _new_agent(self, job: Job) -> Agent:
        if self._policy is None:
            raise SimulationError("this runner was given no policy to play with")
        agent = self._make_agent(self._policy)
        return SamplingAgent(agent, zlib.crc32(job.key.encode())) if self._sample else agent

    def _predict(self, live: list[LiveEpisode], batch: int) -> dict[int, Exception]:
        """Give a chunk to every episode that needs one, predicting `batch` at once. Returns the exceptions, by episode."""
        queries = [(episode, query) for episode in live if (query := episode.next_query()) is not None]
        failed: dict[int, Exception] = {}
        if not queries or self._policy is None:
            return failed
        observations = [query for _, query in queries]
        try:
            chunks: list[ActionChunk] | None = self._policy.predict(_filled(observations, batch))
        except Exception:
            chunks = None  # find out below whose observation it was
        for number, (episode, query) in enumerate(queries):
            try:
                chunk = chunks[number] if chunks is not None else self._policy.predict(_filled([query], batch))[0]
                cast(ChunkedAgent, episode.agent).receive(chunk)
            except Exception as error:
                failed[id(episode)] = error
        return failed

    def _step(self, live: LiveEpisode, failed: Exception | None) -> EpisodeResult | None:
        try:
            if failed is not None:
                raise failed
            result = live.step()
        except Exception as error:
            live.episode.env.close()
            return live.result("error", _message(error))
        if result is not None:
            self._release(live)
        return result

    def _release(self, live: LiveEpisode) -> None:
        self._idle[live.job.agent not in SCRIPTED].append(live.episode.env)


def describe(
    job: Job,
    info: Mapping[str, Any],
    outcome: Outcome,
    error: str | None = None,
    actions: Iterable[FloatArray] = (),
    seconds: float = 0.0,
) -> EpisodeResult:
    """The line that an episode leaves in ``results.jsonl``."""
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


def _filled(observations: list[Observation], batch: int) -> list[Observation]:
    """Repeats the first until there are `batch`."""
    return observations + observations[:1] * (batch - len(observations))


def _with(make: MakeEnv, **option: Any) -> MakeEnv:
    fitted = functools.partial(make, **option)
    try:
        fitted().close()
    except TypeError:
        return make
    return fitted


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
