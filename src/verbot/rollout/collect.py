"""Demonstrations from scripted experts, gathered by several processes into one dataset."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from verbot.configuration import build, to_plain
from verbot.contracts import Agent, Env, Expert, expert_of, observation_from_env
from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.envs import make_env
from verbot.envs.seeding import generator
from verbot.errors import ConfigError, DataError, SimulationError
from verbot.parallel.progress import Progress
from verbot.parallel.ray import open_cluster, shared_out
from verbot.parallel.workers import Channel, in_order, serve
from verbot.spec import Observation, RobotSpec

TOGETHER = 4  # attempts in a task of a cluster


@dataclass(frozen=True)
class CollectConfig:
    """What to demonstrate.

    Args:
        env: a registered env's name.
        episodes: successful demonstrations to save.
        seed: attempt i is a function of (seed, i); failed attempts are counted, not saved.
        noise: of the expert's executed actions; the label is always the clean action.
        workers: processes.
        tasks: shown in turn; None shows all that the env has.
        options: of `make_env`.
        axes: randomization axis to strength, for every episode.
        randomize: randomization axis to the greatest strength: each attempt draws its own, evenly from 0 to that, and
            ``extras["request"]["axes"]`` holds what it drew. ``"all"`` stands for every axis that a recording can hold.
        attempts_per_episode: give up when this many attempts for each wanted episode were not enough.
        again: the env of every second attempt, which visits the scene of the attempt before once more.
        first: only so many frames at the start of each attempt are recorded, whatever would have come of it: pictures of scenes
            to learn to see and to name, not demonstrations; None records attempts to their successful end.
    """

    env: str = "tabletop-starter"
    episodes: int = 1600
    seed: int = 0
    noise: float = 0.15
    workers: int = 2
    tasks: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, int] = field(default_factory=dict)
    randomize: Mapping[str, int] = field(default_factory=dict)
    attempts_per_episode: float = 2.0
    again: str | None = None
    first: int | None = None

    def __post_init__(self) -> None:
        if self.first is not None and self.first < 1:
            raise ConfigError(f"first is {self.first}; expected at least 1 frame, or none for whole demonstrations")


@dataclass(frozen=True)
class CollectResult:
    """What was gathered: `episodes` saved, `failures` of the expert and `errors` of the simulator among the attempts."""

    path: str
    episodes: int
    frames: int
    attempts: int
    failures: int
    errors: int
    seconds: float


@dataclass(frozen=True)
class Attempt:
    """What came of one attempt: `record` is None unless the expert succeeded; `over` if it was never its turn."""

    index: int
    record: EpisodeRecord | None
    error: str | None = None
    over: bool = False


def collect(
    env: str,
    path: str | Path,
    episodes: int,
    seed: int = 0,
    *,
    progress: bool = True,
    cluster: str | None = None,
    **settings: Any,
) -> CollectResult:
    """Save `episodes` successful demonstrations of `env`'s expert at `path`.

    An interrupted collection continues where it was when called again, and its dataset is the one that it would have been.

    Args:
        cluster: attempts are made on it (``"ray"``, ``"ray:ADDRESS"``) in place of worker processes; the dataset is the same.
        settings: other fields of `CollectConfig`, e.g. ``workers=2``, ``noise=0.15``.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> collect("tabletop-starter", folder.name + "/demos", 1, workers=1, progress=False).episodes
        1
        >>> folder.cleanup()
    """
    return run(CollectConfig(env=env, episodes=episodes, seed=seed, **settings), Path(path), progress, cluster)


def run(config: CollectConfig, path: Path, progress: bool = True, cluster: str | None = None) -> CollectResult:
    """As `collect`, from a configuration. Raises `DataError` when the expert keeps failing."""
    started = time.monotonic()
    drawn_axes(config, 0)  # refuses what cannot be drawn before any worker starts
    spec, tasks = _surveyed(config)
    saved, frames, tried, errors = _already(path, config)
    limit = math.ceil(config.episodes * config.attempts_per_episode) + 20
    briefing = {"config": to_plain(config), "tasks": tasks}
    indices = range(tried, limit if saved < config.episodes else tried)
    made = attempts(briefing, indices, config.workers) if cluster is None else attempts_on(cluster, briefing, indices)
    with (
        DatasetWriter(path, spec) as writer,
        Progress("collect", config.episodes, "episodes", saved, progress) as bar,
        closing(made),
    ):
        for attempt in made:
            tried, errors = attempt.index + 1, errors + (attempt.error is not None)
            if attempt.record is not None:
                writer.save_episode(stamped(attempt.record, attempt=attempt.index, errors=errors))
                saved, frames = saved + 1, frames + len(attempt.record.actions)
                bar.update(saved, f"{tried - saved} of {tried} attempts failed")
            if saved == config.episodes:
                break
    if saved < config.episodes:
        raise DataError(f"only {saved} of {config.episodes} demonstrations after {tried} attempts ({errors} simulator errors)")
    return CollectResult(str(path), saved, frames, tried, tried - saved - errors, errors, time.monotonic() - started)


def attempts(
    briefing: Mapping[str, Any], indices: Sequence[int], count: int, module: str = "verbot.rollout.collect"
) -> Generator[Attempt]:
    """The attempts of `indices`, in order, made by `count` worker processes (see `verbot.parallel.workers.in_order`)."""
    yield from in_order(module, count, "collection worker", briefing, indices)


def attempts_on(cluster: str, briefing: Mapping[str, Any], indices: Sequence[int]) -> Generator[Attempt]:
    """As `attempts`, by the tasks of a cluster (see `verbot.parallel.ray.open_cluster`)."""
    with open_cluster(cluster) as opened:
        for made in opened.in_order("verbot.rollout.collect:attempter", briefing, shared_out(indices, TOGETHER)):
            yield from made


def demonstrate(
    env: Env, request: Mapping[str, Any], noise: float, seed: int, index: int, lead_in: LeadIn | None = None,
    first: int | None = None,
) -> Attempt:  # fmt: skip
    """Attempt `index` of the expert, recorded.

    Args:
        request: the fields of an `EpisodeRequest`.
        noise: of the executed actions.
        lead_in: who acts before the expert takes over; what it does is not recorded.
        first: record only so many frames.
    """
    try:
        record, info = env.reset(seed=seed, options=dict(request))
        expert = expert_of(env, noise=noise, seed=int(np.random.SeedSequence([seed, request["index"]]).generate_state(1)[0]))
        expert.reset(record["instruction"])
        over = False
        if lead_in is not None:
            record, info, over = lead_in(env, expert, record, info)
        if over or info["error"]:
            return Attempt(index, None, info["error"], over)
        return Attempt(index, *_record(env, expert, record, info, request, first))
    except SimulationError as error:
        return Attempt(index, None, str(error))


@dataclass(frozen=True)
class LeadIn:
    """An agent acts for a number of steps, while the expert watches."""

    agent: Agent
    steps: int

    def __call__(self, env: Env, expert: Expert, record: dict[str, Any], info: dict[str, Any]) -> Any:
        self.agent.reset(record["instruction"])
        over = False
        for step in range(self.steps):
            observation = observation_from_env(record, step / env.robot_spec.rate_hz)
            expert.act(observation)
            record, _, terminated, truncated, info = env.step(self.agent.act(observation))
            if over := terminated or truncated:
                break
        return record, info, over


def _record(
    env: Env, expert: Expert, record: dict[str, Any], info: dict[str, Any], request: Mapping[str, Any], frames: int | None
) -> tuple[EpisodeRecord | None, str | None]:
    seen: list[Observation] = []
    labels: list[np.ndarray] = []
    first, first_contact, covered, over = info, None, None, False
    while not over and len(seen) != frames:
        if covered is None and info.get("covered"):
            covered = len(seen)
        if first_contact is None and info["first_contact"] is not None:
            first_contact = len(seen)
        seen.append(observation_from_env(record))
        action = expert.act(seen[-1])
        labels.append(expert.label())
        record, _, terminated, truncated, info = env.step(action)
        over = terminated or truncated
    cut = not over
    if info["error"] or not (info["success"] or cut):
        return None, info["error"]
    found = episode_record(
        env, seen, labels, first, first_contact_frame=first_contact, unseen_frame=covered, request=request, success=not cut
    )
    return replace(found, extras={**found.extras, "handed_back": True}) if cut else found, None  # hindsight ends with it


def episode_record(
    env: Env,
    seen: Sequence[Observation],
    labels: Sequence[np.ndarray],
    info: Mapping[str, Any],
    *,
    first_contact_frame: int | None,
    unseen_frame: int | None,
    request: Mapping[str, Any],
    success: bool = True,
) -> EpisodeRecord:
    """An attempt as it is saved, whoever made it.

    Args:
        seen, labels: observations, and the action (a,) for each.
        info: as `env` told it at the first of them.
        first_contact_frame, unseen_frame: where something was first engaged, and where colors were first covered.

    Raises `ConfigError` where a camera gave no picture.
    """
    cameras = env.robot_spec.camera_names
    lost = [name for name in cameras if not all(name in o.images for o in seen)]
    if lost:
        raise ConfigError(
            f"camera {lost[0]!r} gave no picture in some steps, and a recording has one of each camera in each step: collect "
            "without camera_dropout; training can leave cameras out by itself (augment.camera_dropout)"
        )
    return EpisodeRecord(
        instruction=info["instruction"],
        states=np.stack([o.state for o in seen]),
        actions=np.stack(labels),
        images={name: np.stack([o.images[name] for o in seen]) for name in cameras},
        calibration=info["calibration"],
        extras={
            "goal": info["goal"],
            "instructions": list(info["instructions"]),
            "feasible": info["feasible"],
            "grounding": info["grounding"],
            "first_contact_frame": first_contact_frame,
            "success": success,
            "request": dict(request),
            **({} if unseen_frame is None else {"unseen_frame": unseen_frame}),
            **({"captions": info["captions"]} if info.get("captions") else {}),
        },
    )


def stamped(record: EpisodeRecord, **stamp: int) -> EpisodeRecord:
    """With ``extras["collection"]``: what a later call must know to continue."""
    return replace(record, extras={**record.extras, "collection": stamp})


def _surveyed(config: CollectConfig) -> tuple[RobotSpec, Sequence[str]]:
    """The robot, and the tasks that are shown in turn."""
    spec, tasks = None, config.tasks
    for name in filter(None, (config.env, config.again)):
        with closing(make_env(name, **config.options)) as env:
            spec, tasks = spec or env.robot_spec, tasks or env.tasks
            if unknown := set(tasks) - set(env.tasks):
                raise ConfigError(f"{name!r} has no task {', '.join(sorted(unknown))}; it has {', '.join(env.tasks)}")
            if env.robot_spec != spec:
                raise ConfigError(f"{config.env!r} and {name!r} have different robots; one dataset has one")
    assert spec is not None and tasks is not None
    return spec, tasks


def _work(channel: Channel) -> None:
    """A worker: told once what to do, then one attempt for each index that comes."""
    briefing = channel.receive()
    with contextlib.ExitStack() as opened:
        attempt = _attempt(briefing, opened)
        while True:
            channel.send(attempt(channel.receive()))


def attempter(briefing: Mapping[str, Any]) -> Callable[[Sequence[int]], list[Attempt]]:
    """What answers a batch of indices on a cluster; its envs live as long as the process."""
    attempt = _attempt(briefing, contextlib.ExitStack())
    return lambda indices: [attempt(index) for index in indices]


def _attempt(briefing: Mapping[str, Any], opened: contextlib.ExitStack) -> Callable[[int], Attempt]:
    """What makes the attempt of an index, in envs that are closed with `opened`."""
    config = build(CollectConfig, briefing["config"])
    names = filter(None, (config.env, config.again))
    visits = [opened.enter_context(closing(make_env(name, **config.options))) for name in names]

    def make(index: int) -> Attempt:
        scene, visit = divmod(index, len(visits))
        request = request_for(config, briefing["tasks"], scene)
        attempt = demonstrate(visits[visit], request, config.noise, config.seed, index, first=config.first)
        if visit and attempt.record is not None:
            attempt = replace(attempt, record=replace(attempt.record, extras={**attempt.record.extras, "visit": visit}))
        return attempt

    return make


def request_for(config: CollectConfig, tasks: Sequence[str], index: int) -> dict[str, Any]:
    """Tasks take turns, in an order that the seed shuffles anew in every round."""
    turn, place = divmod(index, len(tasks))
    order = np.random.default_rng([config.seed, turn]).permutation(len(tasks))
    axes = {**config.axes, **drawn_axes(config, index)}
    return {"task": tasks[order[place]], "split": "train", "index": index, "wording": "seen", "axes": axes}


def drawn_axes(config: CollectConfig, index: int) -> dict[str, int]:
    """The strengths that attempt `index` drew, a function of (seed, index, axis); raises as `randomization.draw` does."""
    if not config.randomize:
        return {}
    from verbot.envs.tabletop.simulation import randomization  # it loads the simulator, which other worlds do without

    return randomization.draw(config.randomize, lambda axis: generator("strength", axis, config.seed, index), config.axes)


def _already(path: Path, config: CollectConfig) -> tuple[int, int, int, int]:
    """Episodes and frames saved, attempts made and simulator errors met by an earlier, interrupted call."""
    if not path.exists():
        return 0, 0, 0, 0
    dataset = open_dataset(path)
    if not len(dataset):
        return 0, 0, 0, 0
    last = dataset[len(dataset) - 1].extras["collection"]
    return len(dataset), sum(len(dataset[i].actions) for i in range(len(dataset))), last["attempt"] + 1, last["errors"]


if __name__ == "__main__":
    # Under the module's own name, so that messages are of the same classes on both sides.
    from verbot.rollout.collect import _work as work

    serve(work)
