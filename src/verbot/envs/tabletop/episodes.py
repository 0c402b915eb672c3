"""Which episode: a scene, its feasible goals and the words, as a function of (suite, task, split, index, seed) alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.contracts import EpisodeRequest, Goal
from verbot.envs.seeding import generator
from verbot.envs.tabletop.language import grammar, multi_sentence
from verbot.envs.tabletop.language.captions import describe
from verbot.envs.tabletop.simulation import randomization
from verbot.envs.tabletop.simulation.layout import Layout, sample, scatter
from verbot.envs.tabletop.simulation.randomization import RandomStream
from verbot.envs.tabletop.suites import Suite
from verbot.envs.tabletop.tasks import TabletopTask
from verbot.errors import ConfigError, SimulationError

SPLITS, COMPOSITIONS = ("train", "test"), ("seen", "unseen")
WORDINGS = ("canonical", "seen", "unseen", "longer", "blank", "image")
LEAST_FEASIBLE = 3
_TRIES = 6000
_SAID, _SAID_OF_OTHERS = 6, 3  # wordings listed for the goal, and for each that the scene admits


@dataclass(frozen=True)
class TabletopEpisode:
    """Everything that is decided before the first step.

    Args:
        stream: name to random generator of this scene; equal names give equal streams.
        cover_step: after so many control steps colors are covered; None for never.
        locked_steps: so many control steps pass before actions have an effect.
        info: what `reset` and `step` tell and what never changes in an episode.
    """

    task: TabletopTask
    goal: Goal
    layout: Layout
    instruction: str
    axes: Mapping[str, int]
    stream: RandomStream
    info: dict[str, Any]
    cover_step: int | None = None
    locked_steps: int = 0


def prepare(
    suite: Suite,
    tasks: Mapping[str, TabletopTask],
    request: EpisodeRequest,
    seed: int,
    axes: Mapping[str, int],
    place: int | None = None,
    captions: int = 0,
) -> TabletopEpisode:
    """The episode that `request` asks for.

    Args:
        place: where it happens: the axes of a place draw from this number's streams instead of the scene's.
        captions: how many captions of the scene `info` holds (see `verbot.envs.tabletop.language.captions`).

    Raises:
        ConfigError: when the request names what does not exist.
    """
    _check(request, tasks, suite)
    task = request.task or _draw_task(suite, tasks, request, seed)
    key = (suite.scenes_of or suite.name, task, request.split, request.index, seed, request.composition)
    strengths = randomization.checked({**axes, **request.axes})

    def stream(name: str) -> np.random.Generator:
        if place is not None and name in randomization.OF_A_PLACE:
            return generator("place", place, name)
        return generator(*key, name)

    layout, goals = _draw_scene(suite, tasks, task, request.composition, strengths, stream)
    if not 0 <= request.goal < len(goals):
        raise ConfigError(f"goal {request.goal} was asked for, but this scene admits goals 0 to {len(goals) - 1}")
    goal = goals[request.goal]
    rng = stream(f"words {request.goal}")
    speaker = _Speaker(layout if suite.several_sentences else None, rng)
    instruction = speaker.say(goal, request)
    chosen = tasks[goal["verb"]]
    info = {
        "instruction": instruction,
        "instructions": list(dict.fromkeys([instruction, *speaker.some(goal)])) if instruction else [""],
        "goal": goal,
        "task": goal["verb"],
        "target_object": chosen.target_object(goal),
        "feasible": goals,
        "grounding": [_ground(tasks[g["verb"]], layout, g, speaker) for g in goals],
    }
    if captions:
        info["captions"] = describe(layout, goals, stream("captions"), captions)
    if suite.show is None or task not in suite.show.tasks:
        return TabletopEpisode(chosen, goal, layout, instruction, strengths, stream, info)
    least, most = suite.show.steps
    cover_step = int(stream("show").integers(least, most + 1))
    locked_steps = cover_step + suite.show.still_steps
    return TabletopEpisode(chosen, goal, layout, instruction, strengths, stream, info, cover_step, locked_steps)


def check_pictured(suite: Suite) -> None:
    """Raise `ConfigError` unless images can specify the goals of `suite`."""
    if suite.show is not None:
        raise ConfigError(f"suite {suite.name!r} has no goal images: they would show what must be remembered")


def _check(request: EpisodeRequest, tasks: Mapping[str, TabletopTask], suite: Suite) -> None:
    for label, value, known in (
        ("split", request.split, SPLITS),
        ("wording", request.wording, WORDINGS),
        ("composition", request.composition, COMPOSITIONS),
        ("task", request.task or next(iter(tasks)), tuple(tasks)),
    ):
        if value not in known:
            raise ConfigError(f"{label} is {value!r}; expected one of {', '.join(known)}")
    if request.level is not None:
        raise ConfigError(f"level is {request.level}; the tabletop world has no levels of difficulty")
    if request.wording == "image":
        check_pictured(suite)
    if request.wording == "longer" and not suite.several_sentences:
        raise ConfigError(f"suite {suite.name!r} speaks in single sentences; longer commands are those of tabletop-sentences")


def _draw_task(suite: Suite, tasks: Mapping[str, TabletopTask], request: EpisodeRequest, seed: int) -> str:
    names = [name for name, task in tasks.items() if request.composition == "seen" or task.is_compositional]
    rng = generator(suite.scenes_of or suite.name, "task", request.split, request.index, seed, request.composition)
    return str(rng.choice(names))


def _draw_scene(
    suite: Suite, tasks: Mapping[str, TabletopTask], name: str, composition: str, axes: Mapping[str, int], stream: RandomStream
) -> tuple[Layout, list[Goal]]:
    """A layout that admits a goal of the drawn task and variant, and all goals that it admits, the drawn one first."""
    rng, constraints = stream("scene"), randomization.widen(suite.constraints, axes)
    tasks, is_covered = _shown_alike(suite, tasks, name)
    variants = tasks[name].variants
    variant = variants[int(rng.integers(len(variants)))]
    for _ in range(_TRIES):
        layout = sample(constraints, rng)
        wanted = [
            goal
            for goal in _offered(tasks[name], layout, is_covered)
            if variant.items() <= goal.items() and grammar.is_demonstrated(goal) == (composition == "seen")
        ]
        if not wanted:
            continue
        goal = wanted[int(rng.integers(len(wanted)))]
        others = [g for task in tasks.values() for g in _offered(task, layout, is_covered) if g != goal]
        if composition == "seen":
            others = [g for g in others if grammar.is_demonstrated(g)]
        goals = [goal, *_in_turns(others, tasks, tasks[name].target_object(goal), rng)]
        if len(goals) >= LEAST_FEASIBLE and len({tasks[g["verb"]].target_object(g) for g in goals}) > 1:
            goals = goals[: suite.most_goals]
            return _scatter(layout, goals, tasks, axes, stream, is_covered), goals
    raise SimulationError(f"no scene for task {name!r} {variant} with composition {composition!r} in {_TRIES} tries")


def _shown_alike(suite: Suite, tasks: Mapping[str, TabletopTask], name: str) -> tuple[Mapping[str, TabletopTask], bool]:
    """The tasks that a scene of task `name` can offer, and whether its objects will be covered: all of them or none."""
    covered = suite.show.tasks if suite.show is not None else ()
    return {other: task for other, task in tasks.items() if (other in covered) == (name in covered)}, name in covered


def _offered(task: TabletopTask, layout: Layout, is_covered: bool) -> list[Goal]:
    """The goals of `task` that one may name: behind the screen, where there is one; under covers, what any of the objects admits.

    Else the words would tell which of the covered objects is meant: the one that can be pushed that way.
    """
    goals = task.goals(layout)
    if layout.screen is not None:
        goals = [goal for goal in goals if layout.hidden(goal["object"])]
    if is_covered:
        goals = [goal for goal in goals if all({**goal, "object": obj.id} in goals for obj in layout.movables)]
    return goals


def _scatter(
    layout: Layout,
    goals: list[Goal],
    tasks: Mapping[str, TabletopTask],
    axes: Mapping[str, int],
    stream: RandomStream,
    is_covered: bool,
) -> Layout:
    """Clutter that leaves every goal feasible, so that the scene is the same otherwise."""

    def keeps(fuller: Layout) -> bool:
        return all(goal in _offered(tasks[goal["verb"]], fuller, is_covered) for goal in goals)

    return scatter(layout, randomization.clutter(axes), keeps, stream("distractors"))


def _in_turns(goals: list[Goal], tasks: Mapping[str, TabletopTask], drawn: str | None, rng: np.random.Generator) -> list[Goal]:
    """Shuffled so that neighbors name different objects, one other than `drawn` first, and
    no verb or relation crowds the others out."""
    piles: dict[tuple[str | None, str, str | None], list[Goal]] = {}
    for i in rng.permutation(len(goals)):
        goal = goals[i]
        piles.setdefault((tasks[goal["verb"]].target_object(goal), goal["verb"], goal.get("relation")), []).append(goal)
    by_name: dict[str | None, list[list[Goal]]] = {}
    for (named, *_), pile in piles.items():
        by_name.setdefault(named, []).append(pile)
    order = sorted(by_name, key=lambda named: named == drawn)
    out: list[Goal] = []
    while order:
        for named in list(order):
            pile = by_name[named].pop(0)
            out.append(pile.pop())
            if pile:
                by_name[named].append(pile)
            elif not by_name[named]:
                order.remove(named)
    return out


class _Speaker:
    """The words for goals of one scene.

    Args:
        layout: layout of the scene for commands of several sentences, whose decoys must be in it; None if one sentence is enough.
    """

    def __init__(self, layout: Layout | None, rng: np.random.Generator):
        self._layout, self._rng = layout, rng

    def say(self, goal: Goal, request: EpisodeRequest) -> str:
        if request.wording == "image":
            return ""
        if request.text is not None:
            return request.text
        if request.wording == "blank":
            return ""
        if request.templates is not None:
            templates = request.templates.get(goal["verb"])
            if not templates:
                raise ConfigError(f"no template for {goal['verb']!r}; the templates given are for {', '.join(request.templates)}")
            return grammar.fill(templates[int(self._rng.integers(len(templates)))], goal)
        if self._layout is not None:
            return multi_sentence.say(goal, multi_sentence.decoys(goal, self._layout), request.wording, self._rng)
        if request.wording == "canonical":
            return grammar.canonical(goal)
        known = grammar.known(goal, request.wording)
        return known[int(self._rng.integers(len(known)))]

    def some(self, goal: Goal, count: int = _SAID) -> list[str]:
        """Wordings to train on."""
        if self._layout is not None:
            others = multi_sentence.decoys(goal, self._layout)
            return [multi_sentence.say(goal, others, "seen", self._rng) for _ in range(count)]
        known = grammar.known(goal, "seen")
        return [known[i] for i in self._rng.permutation(len(known))[:count]]


def _ground(task: TabletopTask, layout: Layout, goal: Goal, speaker: _Speaker) -> dict[str, Any]:
    grounding = task.grounding(layout, goal)
    return {
        "instructions": speaker.some(goal, _SAID_OF_OTHERS),
        "target_base_m": grounding.target_base_m.tolist(),
        "receptacle_base_m": grounding.receptacle_base_m.tolist(),
        "reference_base_m": None if grounding.reference_base_m is None else grounding.reference_base_m.tolist(),
    }
