"""Many episodes side by side in one process, with one batched prediction for all that want a chunk."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np

from verbot.contracts import Agent, ChunkedAgent, Env, Policy, TaskEnv, observation_from_env
from verbot.errors import SimulationError, SpecError
from verbot.rollout.baselines import SCRIPTED, AgentFactory, scripted
from verbot.rollout.results import EpisodeResult, Job, Outcome, encode_actions
from verbot.spec import ActionChunk, FloatArray, Observation

MakeEnv = Callable[..., TaskEnv]


@dataclass
class Episode:
    """One episode under way: its env, its agent and what was seen last."""

    job: Job
    env: Env
    agent: Agent
    observation: Observation
    info: dict[str, Any]
    actions: list[FloatArray] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @staticmethod
    def begin(job: Job, env: Env, make_agent: Callable[[], Agent]) -> Episode:
        record, info = env.reset(seed=job.seed, options=request_options(job))
        agent = scripted(job.player, env, job.key) or make_agent()
        agent.reset(info["instruction"])
        return Episode(job, env, agent, observation_from_env(record), info)

    def next_query(self) -> Observation | None:
        """What the policy should predict from, where this episode needs a chunk."""
        return self.agent.next_query(self.observation) if isinstance(self.agent, ChunkedAgent) else None

    def step(self) -> EpisodeResult | None:
        """Act once. The result when that ended the episode. Raises `SimulationError` on a simulator's fault."""
        action = self.agent.act(self.observation)
        self.actions.append(np.array(action, np.float32))
        record, _, terminated, truncated, self.info = self.env.step(action)
        if self.info.get("error"):
            raise SimulationError(str(self.info["error"]))
        self.observation = observation_from_env(record, len(self.actions) / self.env.robot_spec.rate_hz)
        if not (terminated or truncated):
            return None
        return self.result("success" if self.info["success"] else "failure")

    def result(self, outcome: Outcome, error: str | None = None) -> EpisodeResult:
        return describe(self.job, self.info, outcome, error, self.actions, time.monotonic() - self.started)


@dataclass(frozen=True)
class Worlds:
    """Makes the same env for three uses: to be seen by a policy, for players who need no images, to be filmed."""

    seeing: MakeEnv
    sightless: MakeEnv
    filmed: MakeEnv

    @staticmethod
    def of(make: MakeEnv) -> Worlds:
        """From a factory; one that cannot leave its cameras off or be filmed without further ado serves as it is."""
        return Worlds(make, _with(make, render_cameras=False), _with(make, render_mode="rgb_array"))


class Stage:
    """Plays episodes in `slots` envs at once.

    An exception of an env, an agent or the policy makes that one episode an *error*; its env is then replaced.
    Every batch is filled up to `slots`: a matrix product rounds by its shape, so batches of one shape make an episode the same
    to the bit whoever plays beside it.

    Args:
        worlds: make the envs.
        policy: plays every job whose player is not scripted.
        make_agent: wraps the policy for one episode.
        slots: episodes under way at once.
    """

    def __init__(self, worlds: Worlds, policy: Policy | None, make_agent: AgentFactory, slots: int):
        self._worlds, self._policy, self._make_agent, self._slots = worlds, policy, make_agent, slots
        self._idle: dict[bool, list[Env]] = {True: [], False: []}  # by whether they are seeing

    def check(self) -> None:
        """Raise `SpecError` unless the policy was made for what the env shows and takes."""
        if self._policy is None:
            return
        env = self._worlds.seeing()
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
        waiting, live, more = iter(jobs), list[Episode](), True
        while True:
            while more and len(live) < self._slots:
                job = next(waiting, None)
                if job is None:
                    more = False
                elif isinstance(begun := self._begin(job), Episode):
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
            while isinstance(begun, Episode):
                fault: Exception | None = None
                if begun.next_query() is not None:
                    start = time.perf_counter()
                    fault = self._predict([begun], 1).get(id(begun))
                    seconds.append(time.perf_counter() - start)
                if len(seconds) >= count + 3:
                    self._leave(begun)
                    return seconds[3:]
                if self._step(begun, fault) is not None:
                    break
        return seconds[3:]

    def _begin(self, job: Job) -> Episode | EpisodeResult:
        seeing = job.player not in SCRIPTED
        idle = self._idle[seeing]
        env = idle.pop() if idle else (self._worlds.seeing if seeing else self._worlds.sightless)()
        try:
            return Episode.begin(job, env, self._new_agent)
        except Exception as error:
            env.close()
            return describe(job, {}, "error", _words(error))

    def _new_agent(self) -> Agent:
        if self._policy is None:
            raise SimulationError("this stage was given no policy to play with")
        return self._make_agent(self._policy)

    def _predict(self, live: list[Episode], batch: int) -> dict[int, Exception]:
        """Give a chunk to every episode that wants one, predicting `batch` at once. Returns the exceptions, by episode."""
        asking = [(episode, wanted) for episode in live if (wanted := episode.next_query()) is not None]
        failed: dict[int, Exception] = {}
        if not asking or self._policy is None:
            return failed
        observations = [wanted for _, wanted in asking]
        try:
            chunks: list[ActionChunk] | None = self._policy.predict(_filled(observations, batch))
        except Exception:
            chunks = None  # find out below whose observation it was
        for number, (episode, wanted) in enumerate(asking):
            try:
                chunk = chunks[number] if chunks is not None else self._policy.predict(_filled([wanted], batch))[0]
                cast(ChunkedAgent, episode.agent).receive(chunk)
            except Exception as error:
                failed[id(episode)] = error
        return failed

    def _step(self, episode: Episode, failed: Exception | None) -> EpisodeResult | None:
        try:
            if failed is not None:
                raise failed
            result = episode.step()
        except Exception as error:
            episode.env.close()
            return episode.result("error", _words(error))
        if result is not None:
            self._leave(episode)
        return result

    def _leave(self, episode: Episode) -> None:
        self._idle[episode.job.player not in SCRIPTED].append(episode.env)


def request_options(job: Job) -> dict[str, Any]:
    """The fields of a job's request, as the options that `Env.reset` takes."""
    return {f.name: getattr(job.request, f.name) for f in dataclasses.fields(job.request)}


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
        player=job.player,
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


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
