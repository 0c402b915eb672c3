"""The episodes of an evaluation: conditions on one balanced set of scenes, and baselines on the same scenes."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from verbot.agents.real_time import METHODS
from verbot.contracts import EpisodeRequest
from verbot.errors import ConfigError, UnknownNameError
from verbot.ranges import COUNT, COUNT_OR_NONE, FINITE, NOT_NEGATIVE, SEED, NumberRange, check_ranges
from verbot.rollout.delay import Delay
from verbot.rollout.results import Job

MODES = ("canonical", "paraphrase", "longer", "blank", "counterfactual", "composition", "image")
AXES = (
    "positions", "lighting", "appearance", "camera", "distractors", "robot_start", "sensor_noise", "dynamics", "camera_dropout",
)  # fmt: skip
ALL = "all"  # axes at once
# The wording of each mode that differs from the canonical one.
WORDINGS = {"paraphrase": "unseen", "longer": "longer", "blank": "blank", "image": "image"}
WORDLESS = ("blank", "image")
AROUND_CANONICAL = ("paraphrase", "composition", "counterfactual", "blank")
BASELINES = ("random", "expert", "blind")


@dataclass(frozen=True)
class EvaluationConfig:
    """Settings of an evaluation.

    Args:
        suite: name of an env.
        episodes: number of scenes of the main condition; tasks alternate, so that every task has an equal share.
        seed: seed of the scenes; another seed gives another set.
        mode: the main condition, to which `success_rate` refers; one of `MODES`.
        axes: strength 1–3 of each randomization axis in the main condition.
        templates: templates by verb that replace the grammar's wording, e.g. ``{"pick": ["grab the {object}"]}``.
        conditions: further conditions: modes, ``"axis:NAME:STRENGTH"``, or several axes at once, ``"axes:NAME+NAME:STRENGTH"``
            and ``"axes:all:STRENGTH"``. If None: the four other modes for a canonical run without axes, the canonical mode for a
            run with axes, otherwise none.
        side_episodes: number of scenes of each further condition and of the random and blind baselines. If None: half of
            `episodes`, but at least 100 if there are as many.
        goals: number of feasible instructions from each initial state in the counterfactual condition.
        baselines: whether to evaluate the random, expert and language-blind agents too.
        execute: number of actions executed per predicted chunk.
        sample: draw actions from the distribution of the policy's head, as a function of (seed, episode, step). If False, the
            most likely ones are executed.
        decay: decay of temporal ensembling, which replaces chunk execution; None disables it.
        align: target channel median of each camera for color alignment (`verbot.agents.ColorAlignmentAgent`); None disables it.
        videos: number of episodes recorded for the report.
        latency_calls: number of single predictions that are timed.
        workers: number of processes; 0 takes one per core.
        slots: number of episodes that one worker runs at once, with batched predictions.
        options: passed to the env's factory.
        tasks: evaluate only these of the env's tasks, in scenes that admit goals of all its tasks; None uses all. In contrast,
            the env's option ``tasks`` removes the others from the env.
        real_time: method of real-time chunking (see `verbot.agents.RealTimeAgent`); None executes chunks one after another.
        delay, delay_jitter: control steps that each answer of the policy takes, give or take; the env is stepped meanwhile.
        drop: share of answers that are lost. A delay, or loss, needs `real_time`.
        delay_estimate: control steps that the agent expects an answer to take; None lets it measure them.
    """

    suite: str = "tabletop-starter"
    episodes: int = 200
    seed: int = 0
    mode: str = "canonical"
    axes: Mapping[str, int] = field(default_factory=dict)
    templates: Mapping[str, tuple[str, ...]] | None = None
    conditions: tuple[str, ...] | None = None
    side_episodes: int | None = None
    goals: int = 2
    baselines: bool = True
    execute: int = 1
    decay: float | None = None
    align: Mapping[str, tuple[float, float, float]] | None = None
    videos: int = 24
    latency_calls: int = 100
    workers: int = 0
    slots: int = 8
    options: Mapping[str, object] = field(default_factory=dict)
    tasks: tuple[str, ...] | None = None
    sample: bool = False
    real_time: str | None = None
    delay: int = 0
    delay_jitter: int = 0
    drop: float = 0.0
    delay_estimate: int | None = None

    def __post_init__(self) -> None:
        _one_of("instruction mode", self.mode, MODES)
        check_ranges(
            self, episodes=COUNT, seed=SEED, side_episodes=COUNT, goals=NumberRange(2, whole=True), execute=COUNT,
            decay=NOT_NEGATIVE, align=FINITE, videos=COUNT_OR_NONE, latency_calls=COUNT_OR_NONE, workers=COUNT_OR_NONE,
            slots=COUNT, delay_estimate=COUNT_OR_NONE,
        )  # fmt: skip
        _check_real_time(self)
        for axis, strength in self.axes.items():
            _check_axis(axis, strength)
        for condition in self.conditions or ():
            condition_axes(condition)

    @property
    def delays(self) -> Delay:
        """How long an answer of the policy takes. Raises `ConfigError` for a number outside its range."""
        return Delay(self.delay, self.delay_jitter, self.drop)

    @property
    def main(self) -> str:
        """The main condition's name."""
        return self.mode + axes_suffix(self.axes)

    @property
    def further(self) -> tuple[str, ...]:
        """The names of the further conditions."""
        if self.conditions is not None:
            return tuple(name for name in self.conditions if name != self.main)
        if self.main == "canonical" and self.templates is None:
            return AROUND_CANONICAL
        return ("canonical",) if self.mode == "canonical" and self.axes else ()

    @property
    def side(self) -> int:
        """The number of scenes of each further condition."""
        wanted = max(self.episodes // 2, 100) if self.side_episodes is None else self.side_episodes
        return min(wanted, self.episodes)


@dataclass(frozen=True)
class EvaluationPlan:
    """Every episode of an evaluation.

    Args:
        conditions: the policy's episodes by condition, the main one first. One episode may belong to several conditions.
        baselines: the episodes of each baseline agent, on scenes of the main condition.
    """

    conditions: Mapping[str, tuple[Job, ...]]
    baselines: Mapping[str, tuple[Job, ...]]

    def jobs(self) -> list[Job]:
        """Each episode once. Agents with the longest episodes come first, so that workers finish at the same time."""
        slow = [job for name in ("random", "blind") for job in self.baselines.get(name, ())]
        policy = [job for jobs in reversed(list(self.conditions.values())) for job in jobs]
        return list({job.key: job for job in [*slow, *policy, *self.baselines.get("expert", ())]}.values())


def _check_real_time(config: EvaluationConfig) -> None:
    """Raise `ConfigError` unless the agent can wait for answers as late as these."""
    delayed = not config.delays.is_none
    if config.real_time is not None:
        _one_of("method of real-time chunking", config.real_time, METHODS)
        if config.decay is not None:
            raise ConfigError("decay averages chunks in place of executing them: it does not go with real_time")
    elif delayed or config.delay_estimate is not None:
        given = f"a delay of {config.delay} steps with {config.drop:g} of the answers lost" if delayed else "delay_estimate"
        raise ConfigError(f"{given} needs a method of real-time chunking: set real_time to one of {', '.join(METHODS)}")


def make_plan(
    config: EvaluationConfig, tasks: tuple[str, ...], agent: str = "policy", compositional: tuple[str, ...] | None = None
) -> EvaluationPlan:
    """The episodes of `config` on the tasks of its suite.

    Args:
        agent: the evaluated agent: ``"policy"``, or a scripted one, which has no language-blind baseline.
        compositional: the tasks with undemonstrated combinations, to which the composition condition is limited; all if None.

    Raises `UnknownNameError` for a task of `config` that is not in `tasks`.
    """
    for name in config.tasks or ():
        if name not in tasks:
            raise UnknownNameError(f"task of env {config.suite!r}", name, tasks)
    composed = tasks if compositional is None else compositional
    tasks = config.tasks or tasks
    fitting = {"composition": tuple(name for name in composed if name in tasks)}
    main = _jobs(config, fitting.get(config.mode, tasks), agent, config.mode, config.axes, config.episodes)
    conditions = {config.main: main}
    for name in config.further:
        axes = condition_axes(name)
        count = config.episodes if config.axes else config.side
        mode = name if not axes else "canonical"
        conditions[name] = _jobs(config, fitting.get(mode, tasks), agent, mode, axes, count)
    baselines: dict[str, tuple[Job, ...]] = {}
    if config.baselines:
        share = main[: config.side * (config.goals if config.mode == "counterfactual" else 1)]
        baselines["random"] = tuple(job.played_by("random") for job in share)
        baselines["expert"] = tuple(job.played_by("expert") for job in main)
        if agent == "policy":
            baselines["blind"] = tuple(blinded(job) for job in share)
    return EvaluationPlan(conditions, baselines)


def blinded(job: Job) -> Job:
    """The same scene and goal with an empty instruction, for the language-blind baseline."""
    return dataclasses.replace(job, request=dataclasses.replace(job.request, wording="blank", text=None, templates=None))


def condition_axes(name: str) -> dict[str, int]:
    """The randomization axes of the condition called `name`. Raises `ConfigError` if there is no such condition.

    Example:
        >>> condition_axes("axis:lighting:2"), condition_axes("axes:camera+lighting:1"), condition_axes("paraphrase")
        ({'lighting': 2}, {'camera': 1, 'lighting': 1}, {})
    """
    kind, _, rest = name.partition(":")
    if kind not in ("axis", "axes"):
        _one_of("condition", name, (*MODES, "axis:NAME:STRENGTH", "axes:all:STRENGTH"))
        return {}
    which, _, strength = rest.partition(":")
    names = [which] if kind == "axis" else AXES if which == ALL else which.split("+")
    for axis in names:
        _check_axis(axis, int(strength) if strength.isdigit() else strength)
    return {axis: int(strength) for axis in names}


def axes_suffix(axes: Mapping[str, int]) -> str:
    """The suffix of a condition's name for its randomization axes; empty without randomization.

    Example:
        >>> axes_suffix({"camera": 2, "lighting": 0}), axes_suffix(dict.fromkeys(AXES, 3))
        (' camera:2', ' all:3')
    """
    changed = {axis: strength for axis, strength in sorted(axes.items()) if strength}
    if set(changed) == set(AXES) and len(set(changed.values())) == 1:
        return f" {ALL}:{changed[AXES[0]]}"
    return "".join(f" {axis}:{strength}" for axis, strength in changed.items())


def _jobs(
    config: EvaluationConfig, tasks: tuple[str, ...], agent: str, mode: str, axes: Mapping[str, int], count: int
) -> tuple[Job, ...]:
    if not tasks:
        raise ConfigError(f"no task supports the condition {mode!r}: remove it from conditions")
    jobs = []
    for number in range(count):
        request = EpisodeRequest(
            task=tasks[number % len(tasks)],
            index=number // len(tasks),
            wording=WORDINGS.get(mode, "canonical"),
            composition="unseen" if mode == "composition" else "seen",
            templates=config.templates if mode not in WORDLESS else None,
            axes={axis: strength for axis, strength in axes.items() if strength},
        )
        for goal in range(config.goals if mode == "counterfactual" else 1):
            jobs.append(Job(agent, dataclasses.replace(request, goal=goal), config.seed))
    return tuple(jobs)


def _check_axis(axis: str, strength: object) -> None:
    _one_of("randomization axis", axis, AXES)
    if not isinstance(strength, int) or not 0 <= strength <= 3:
        raise ConfigError(f"axis {axis!r} has strength {strength!r}; expected 0 (nominal) to 3")


def _one_of(kind: str, name: str, known: tuple[str, ...]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"there is no {kind} {name!r}.{hint} Known: {', '.join(known)}")
