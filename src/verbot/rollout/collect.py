"""Collects demonstrations of scripted experts with several processes into one dataset."""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from verbot.configuration import old_names, renamed, warn_renamed
from verbot.contracts import Agent, Env, Expert, Surveyed, expert_of
from verbot.contracts.scenes import SCENE_COLUMN
from verbot.data import DatasetWriter, EpisodeRecord, open_dataset
from verbot.envs import make_env
from verbot.envs.seeding import generator
from verbot.errors import ConfigError, DataError, SimulationError
from verbot.folders import is_blank
from verbot.parallel.progress import Progress
from verbot.ranges import COUNT, NOT_NEGATIVE, POSITIVE, SEED, STRENGTH, check_ranges
from verbot.rollout.episode import EpisodeRunner, Supervised, Transition
from verbot.rollout.worker import answers_from_cluster, answers_from_workers
from verbot.spec import RobotSpec

BATCH = 4  # episodes per task of a cluster


@renamed(again="revisit_env", first="max_frames")
@dataclass(frozen=True)
class CollectConfig:
    """The demonstrations to collect.

    Args:
        env: name of a registered env.
        episodes: number of successful demonstrations to save.
        seed: episode i is a function of (seed, i). Failed episodes are counted, not saved.
        noise: noise of the expert's executed actions; the label is always the clean action.
        workers: number of processes.
        tasks: alternate between demonstrations; None uses all tasks of the env.
        options: options of `make_env`.
        axes: randomization axis to strength, for every episode.
        randomize: randomization axis to its maximum strength. Each episode draws a strength uniformly from 0 to that, recorded in
            ``extras["request"]["axes"]``. ``"all"`` stands for every axis that can be recorded.
        attempts_per_episode: the collection stops with an error after this many attempts per demonstration.
        revisit_env: env of a second episode in each scene, directly after the first; None visits each scene once.
        max_frames: record only this many frames from the start of each episode, whether or not it would succeed. Such a dataset
            trains perception, not actions. None records whole successful episodes.
        images: how color images are stored, as in `verbot.data.DatasetWriter`.
        truth: record the truth of every frame's scene in the column ``scene``, from which co-training makes questions, captions
            and reasoning; for a `verbot.contracts.Surveyed` env.
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
    revisit_env: str | None = None
    max_frames: int | None = None
    images: str | None = None
    truth: bool = False

    def __post_init__(self) -> None:
        check_ranges(
            self, episodes=COUNT, seed=SEED, noise=NOT_NEGATIVE, workers=COUNT, axes=STRENGTH, randomize=STRENGTH,
            attempts_per_episode=POSITIVE,
        )  # fmt: skip
        if self.max_frames is not None and self.max_frames < 1:
            raise ConfigError(f"max_frames is {self.max_frames}; expected at least 1 frame, or none for whole demonstrations")


@dataclass(frozen=True)
class CollectResult:
    """The number of saved `episodes`, and of `attempts` with their `failures` of the expert and `errors` of the simulator."""

    path: str
    episodes: int
    frames: int
    attempts: int
    failures: int
    errors: int
    seconds: float


@dataclass(frozen=True)
class Demonstration:
    """The result of one episode of the expert.

    Args:
        record: None unless the expert succeeded.
        error: a fault of the simulator.
        over: whether the episode ended before the expert could act.
    """

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

    A second call continues an interrupted collection; the dataset does not depend on the interruption.

    Args:
        cluster: run episodes on it (``"ray"``, ``"ray:ADDRESS"``) instead of in worker processes; the dataset is the same.
        settings: other fields of `CollectConfig`, e.g. ``workers=2``, ``noise=0.15``.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> collect("tabletop-starter", folder.name + "/demos", 1, workers=1, progress=False).episodes
        1
        >>> folder.cleanup()
    """
    for old, new in old_names(CollectConfig).items():
        if old in settings:
            warn_renamed("the setting of collect", old, new)
            settings[new] = settings.pop(old)
    return run(CollectConfig(env=env, episodes=episodes, seed=seed, **settings), Path(path), progress, cluster)


def run(config: CollectConfig, path: Path, progress: bool = True, cluster: str | None = None) -> CollectResult:
    """As `collect`, from a configuration. Raises `DataError` when the expert keeps failing."""
    started = time.monotonic()
    drawn_axes(config, 0)  # raises before workers start
    spec, tasks = _spec_and_tasks(config)
    saved, frames, tried, errors = _resume(path, config)
    limit = math.ceil(config.episodes * config.attempts_per_episode) + 20
    indices = range(tried, limit if saved < config.episodes else tried)
    played = demonstrations(DemonstrationSetup(config, tuple(tasks)), indices, config.workers, cluster)
    with (
        DatasetWriter(path, spec, images=config.images) as writer,
        Progress("collect", config.episodes, "episodes", saved, progress) as bar,
        closing(played),
    ):
        for demonstration in played:
            tried, errors = demonstration.index + 1, errors + (demonstration.error is not None)
            if demonstration.record is not None:
                writer.save_episode(stamped(demonstration.record, attempt=demonstration.index, errors=errors))
                saved, frames = saved + 1, frames + len(demonstration.record.actions)
                bar.update(saved, f"{tried - saved} of {tried} attempts failed")
            if saved == config.episodes:
                break
    if saved < config.episodes:
        raise DataError(f"only {saved} of {config.episodes} demonstrations after {tried} attempts ({errors} simulator errors)")
    return CollectResult(str(path), saved, frames, tried, tried - saved - errors, errors, time.monotonic() - started)


@dataclass(frozen=True)
class DemonstrationSetup:
    """A worker that records the expert. A request is the index of an episode, the answer its `Demonstration`."""

    config: CollectConfig
    tasks: tuple[str, ...]

    @contextlib.contextmanager
    def open(self) -> Iterator[DemonstrationWorker]:
        with contextlib.ExitStack() as opened:
            names = filter(None, (self.config.env, self.config.revisit_env))
            envs = [opened.enter_context(closing(make_env(name, **self.config.options))) for name in names]
            yield DemonstrationWorker(self, envs)


class DemonstrationWorker:
    """The service of a `DemonstrationSetup`; two envs alternate on the same scenes."""

    def __init__(self, setup: DemonstrationSetup, envs: Sequence[Env]):
        self._setup, self._envs = setup, envs

    def answers(self, requests: Iterator[int]) -> Iterator[Demonstration]:
        for index in requests:
            yield self._demonstrate(index)

    def _demonstrate(self, index: int) -> Demonstration:
        config = self._setup.config
        scene, visit = divmod(index, len(self._envs))
        request = request_for(config, self._setup.tasks, scene)
        demonstration = demonstrate(
            self._envs[visit], request, config.noise, config.seed, index, max_frames=config.max_frames, truth=config.truth
        )
        if visit and demonstration.record is not None:
            extras = {**demonstration.record.extras, "visit": visit}
            demonstration = replace(demonstration, record=replace(demonstration.record, extras=extras))
        return demonstration


def demonstrations(setup: Any, indices: Sequence[int], count: int, cluster: str | None = None) -> Generator[Demonstration]:
    """The demonstrations of `indices`, in order, from `count` worker processes or from a cluster.

    Args:
        setup: a `DemonstrationSetup`, or another setup with answers of this type.
    """
    if cluster is None:
        return answers_from_workers(setup, indices, count, "collection worker")
    return answers_from_cluster(cluster, setup, indices, BATCH)


def demonstrate(
    env: Env, request: Mapping[str, Any], noise: float, seed: int, index: int, lead_in: LeadIn | None = None,
    max_frames: int | None = None, truth: bool = False,
) -> Demonstration:  # fmt: skip
    """Record episode `index` of the expert.

    Args:
        request: the fields of an `EpisodeRequest`.
        noise: noise of the executed actions.
        lead_in: acts before the expert; its steps are not recorded.
        max_frames: record only this many frames.
        truth: record the truth of every frame's scene. Raises `ConfigError` if the env does not report it.
    """
    try:
        episode = EpisodeRunner(env, request, seed)
        expert = expert_of(env, noise=noise, seed=int(np.random.SeedSequence([seed, request["index"]]).generate_state(1)[0]))
        if lead_in is None:
            expert.reset(episode.instruction)
        else:
            lead_in(episode, expert)
        if episode.over:
            return Demonstration(index, None, over=True)
        return Demonstration(index, _record(episode, expert, max_frames, truth))
    except SimulationError as error:
        return Demonstration(index, None, str(error))


@dataclass(frozen=True)
class LeadIn:
    """`agent` acts for a number of steps before the expert, who observes them."""

    agent: Agent
    steps: int

    def __call__(self, episode: EpisodeRunner, expert: Expert) -> None:
        pair = Supervised(self.agent, expert)
        pair.reset(episode.instruction)
        for _ in itertools.islice(episode.run(pair), self.steps):
            pass


def _record(episode: EpisodeRunner, expert: Expert, frames: int | None, truth: bool) -> EpisodeRecord | None:
    """The rest of the episode, or its first `frames`, by the expert; None if the expert failed."""
    transitions, truths = [], [_truth(episode.env)] if truth else []
    for transition in itertools.islice(episode.run(expert), frames):
        transitions.append(transition)
        truths += [_truth(episode.env)] if truth else []
    cut = not episode.over
    if not (episode.info["success"] or cut):
        return None
    record = episode_record(episode, transitions, success=not cut)
    if truth:  # the last truth is of the state after the last action, which has no frame
        record = replace(record, columns={**record.columns, SCENE_COLUMN: np.array(truths[:-1], object)})
    # `handed_back` marks that the last frame is not the goal.
    return replace(record, extras={**record.extras, "handed_back": True}) if cut else record


def episode_record(episode: EpisodeRunner, transitions: Sequence[Transition], *, success: bool = True) -> EpisodeRecord:
    """Consecutive transitions of `episode` as a record; labels replace the executed actions if there are any.

    Raises:
        ConfigError: a camera has no image in some steps.
    """
    info, cameras = transitions[0].previous_info, episode.env.robot_spec.camera_names
    observations = [t.observation for t in transitions]
    lost = [name for name in cameras if not all(name in o.images for o in observations)]
    if lost:
        raise ConfigError(
            f"camera {lost[0]!r} has no image in some steps, and a recording needs every image: collect without "
            "camera_dropout; training can drop cameras (augment.camera_dropout)"
        )
    covered = _first_frame(transitions, lambda info: bool(info.get("covered")))
    return EpisodeRecord(
        instruction=info["instruction"],
        states=np.stack([o.state for o in observations]),
        actions=np.stack([t.action if t.expert_action is None else t.expert_action for t in transitions]),
        images={name: np.stack([o.images[name] for o in observations]) for name in cameras},
        calibration=info["calibration"],
        extras={
            "goal": info["goal"],
            "instructions": list(info["instructions"]),
            "feasible": info["feasible"],
            "grounding": info["grounding"],
            "first_contact_frame": _first_frame(transitions, lambda info: info["first_contact"] is not None),
            "success": success,
            "request": dict(episode.request),
            **({} if covered is None else {"unseen_frame": covered}),
            **({"captions": info["captions"]} if info.get("captions") else {}),
        },
    )


def _truth(env: Env) -> str:
    if not isinstance(env, Surveyed):
        raise ConfigError(
            f"{type(env).__name__} does not report its scene: it lacks scene_truth() (see verbot.contracts.Surveyed); collect "
            f"without --truth"
        )
    return env.scene_truth().to_json()


def _first_frame(transitions: Sequence[Transition], holds: Callable[[Mapping[str, Any]], bool]) -> int | None:
    """The first frame whose info satisfies `holds`."""
    return next((frame for frame, t in enumerate(transitions) if holds(t.previous_info)), None)


def stamped(record: EpisodeRecord, **stamp: int) -> EpisodeRecord:
    """Add ``extras["collection"]``, from which a later call resumes."""
    return replace(record, extras={**record.extras, "collection": stamp})


def _spec_and_tasks(config: CollectConfig) -> tuple[RobotSpec, Sequence[str]]:
    """The robot and the tasks of the demonstrations."""
    spec, tasks = None, config.tasks
    for name in (config.env, *(() if config.revisit_env is None else (config.revisit_env,))):
        with closing(make_env(name, **config.options)) as env:
            spec, tasks = spec or env.robot_spec, tasks or env.tasks
            if unknown := set(tasks) - set(env.tasks):
                raise ConfigError(f"{name!r} has no task {', '.join(sorted(unknown))}; it has {', '.join(env.tasks)}")
            if env.robot_spec != spec:
                raise ConfigError(f"{config.env!r} and {name!r} have different robots; one dataset has one")
    assert spec is not None and tasks is not None
    return spec, tasks


def request_for(config: CollectConfig, tasks: Sequence[str], index: int) -> dict[str, Any]:
    """The request of episode `index`. Tasks alternate, in an order that is shuffled in every round."""
    turn, place = divmod(index, len(tasks))
    order = np.random.default_rng([config.seed, turn]).permutation(len(tasks))
    axes = {**config.axes, **drawn_axes(config, index)}
    return {"task": tasks[order[place]], "split": "train", "index": index, "wording": "seen", "axes": axes}


def drawn_axes(config: CollectConfig, index: int) -> dict[str, int]:
    """The strengths of episode `index`, a function of (seed, index, axis). Raises as `randomization.draw` does."""
    if not config.randomize:
        return {}
    from verbot.envs.tabletop.simulation import randomization  # loads the simulator, which not all envs need

    return randomization.draw(config.randomize, lambda axis: generator("strength", axis, config.seed, index), config.axes)


def _resume(path: Path, config: CollectConfig) -> tuple[int, int, int, int]:
    """(episodes saved, frames saved, episodes tried, simulator errors) of an earlier, interrupted call."""
    if is_blank(path):
        return 0, 0, 0, 0
    dataset = open_dataset(path)
    if not len(dataset):
        return 0, 0, 0, 0
    last = dataset[len(dataset) - 1].extras["collection"]
    return len(dataset), sum(len(dataset[i].actions) for i in range(len(dataset))), last["attempt"] + 1, last["errors"]
