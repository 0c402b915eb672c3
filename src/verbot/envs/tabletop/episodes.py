"""Which episode: a scene, its feasible goals and the words, as a function of (suite, task, split, index, seed) alone."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.contracts import EpisodeRequest
from verbot.envs.tabletop import language, randomization
from verbot.envs.tabletop.layout import Layout, sample, scatter
from verbot.envs.tabletop.randomization import Stream
from verbot.envs.tabletop.suites import Suite
from verbot.envs.tabletop.tasks import Goal, Task
from verbot.errors import ConfigError, SimulationError

SPLITS, WORDINGS, COMPOSITIONS = ("train", "test"), ("canonical", "seen", "unseen", "blank"), ("seen", "unseen")
LEAST_FEASIBLE = 3
_TRIES = 2000
_SAID, _SAID_OF_OTHERS = 6, 3  # wordings listed for the goal, and for each that the scene admits


@dataclass(frozen=True)
class Episode:
    """Everything that is decided before the first step.

    Args:
        stream: name to random generator of this scene; equal names give equal streams.
        info: what `reset` and `step` tell and what never changes in an episode.
    """

    task: Task
    goal: Goal
    layout: Layout
    instruction: str
    axes: Mapping[str, int]
    stream: Stream
    info: dict[str, Any]


def generator(*parts: object) -> np.random.Generator:
    """A generator seeded by the parts' text; the same in every process and Python, unlike `hash`."""
    digest = hashlib.blake2b("\x1f".join(map(str, parts)).encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(digest, "little"))


def prepare(suite: Suite, tasks: Mapping[str, Task], request: EpisodeRequest, seed: int, axes: Mapping[str, int]) -> Episode:
    """The episode that `request` asks for.

    Raises:
        ConfigError: when the request names what does not exist.
    """
    _check(request, tasks)
    task = request.task or _draw_task(suite, tasks, request, seed)
    key = (suite.name, task, request.split, request.index, seed, request.composition)
    strengths = randomization.checked({**axes, **request.axes})

    def stream(name: str) -> np.random.Generator:
        return generator(*key, name)

    layout, goals = _draw_scene(suite, tasks, task, request.composition, strengths, stream)
    if not 0 <= request.goal < len(goals):
        raise ConfigError(f"goal {request.goal} was asked for, but this scene admits goals 0 to {len(goals) - 1}")
    goal = goals[request.goal]
    rng = stream(f"words {request.goal}")
    instruction = _say(goal, request, rng)
    chosen = tasks[goal["verb"]]
    info = {
        "instruction": instruction,
        "instructions": list(dict.fromkeys([instruction, *_some_wordings(goal, rng)])) if instruction else [""],
        "goal": goal,
        "task": goal["verb"],
        "named": chosen.named(goal),
        "feasible": goals,
        "grounding": [_ground(tasks[g["verb"]], layout, g, rng) for g in goals],
    }
    return Episode(chosen, goal, layout, instruction, strengths, stream, info)


def _check(request: EpisodeRequest, tasks: Mapping[str, Task]) -> None:
    for label, value, known in (
        ("split", request.split, SPLITS),
        ("wording", request.wording, WORDINGS),
        ("composition", request.composition, COMPOSITIONS),
        ("task", request.task or next(iter(tasks)), tuple(tasks)),
    ):
        if value not in known:
            raise ConfigError(f"{label} is {value!r}; expected one of {', '.join(known)}")


def _draw_task(suite: Suite, tasks: Mapping[str, Task], request: EpisodeRequest, seed: int) -> str:
    names = [name for name, task in tasks.items() if request.composition == "seen" or task.is_compositional]
    rng = generator(suite.name, "task", request.split, request.index, seed, request.composition)
    return str(rng.choice(names))


def _draw_scene(
    suite: Suite, tasks: Mapping[str, Task], name: str, composition: str, axes: Mapping[str, int], stream: Stream
) -> tuple[Layout, list[Goal]]:
    """A layout that admits a goal of the drawn task and variant, and all goals that it admits, the drawn one first."""
    rng, wishes = stream("scene"), randomization.widen(suite.wishes, axes)
    variants = tasks[name].variants
    variant = variants[int(rng.integers(len(variants)))]
    for _ in range(_TRIES):
        layout = sample(wishes, rng)
        wanted = [
            goal
            for goal in tasks[name].goals(layout)
            if variant.items() <= goal.items() and language.is_demonstrated(goal) == (composition == "seen")
        ]
        if not wanted:
            continue
        goal = wanted[int(rng.integers(len(wanted)))]
        others = [g for task in tasks.values() for g in task.goals(layout) if g != goal]
        if composition == "seen":
            others = [g for g in others if language.is_demonstrated(g)]
        goals = [goal, *_in_turns(others, tasks, tasks[name].named(goal), rng)]
        if len(goals) >= LEAST_FEASIBLE and len({tasks[g["verb"]].named(g) for g in goals}) > 1:
            return _scatter(layout, goals, tasks, axes, stream), goals
    raise SimulationError(f"no scene for task {name!r} {variant} with composition {composition!r} in {_TRIES} tries")


def _scatter(layout: Layout, goals: list[Goal], tasks: Mapping[str, Task], axes: Mapping[str, int], stream: Stream) -> Layout:
    """Clutter that leaves every goal feasible, so that the scene is the same otherwise."""

    def keeps(fuller: Layout) -> bool:
        return all(goal in tasks[goal["verb"]].goals(fuller) for goal in goals)

    return scatter(layout, randomization.clutter(axes), keeps, stream("distractors"))


def _in_turns(goals: list[Goal], tasks: Mapping[str, Task], drawn: str | None, rng: np.random.Generator) -> list[Goal]:
    """Shuffled so that neighbors name different things, one other than `drawn` first, and no verb crowds the others out."""
    piles: dict[tuple[str | None, str], list[Goal]] = {}
    for i in rng.permutation(len(goals)):
        goal = goals[i]
        piles.setdefault((tasks[goal["verb"]].named(goal), goal["verb"]), []).append(goal)
    by_name: dict[str | None, list[list[Goal]]] = {}
    for (named, _), pile in piles.items():
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


def _say(goal: Goal, request: EpisodeRequest, rng: np.random.Generator) -> str:
    if request.text is not None:
        return request.text
    if request.wording == "blank":
        return ""
    if request.templates is not None:
        templates = request.templates.get(goal["verb"])
        if not templates:
            raise ConfigError(f"no template for {goal['verb']!r}; the templates given are for {', '.join(request.templates)}")
        return language.fill(templates[int(rng.integers(len(templates)))], goal)
    if request.wording == "canonical":
        return language.canonical(goal)
    known = _wordings(tuple(sorted(goal.items())), request.wording)
    return known[int(rng.integers(len(known)))]


def _some_wordings(goal: Goal, rng: np.random.Generator, count: int = _SAID) -> list[str]:
    known = _wordings(tuple(sorted(goal.items())), "seen")
    return [known[i] for i in rng.permutation(len(known))[:count]]


@functools.lru_cache(maxsize=4096)
def _wordings(goal: tuple[tuple[str, Any], ...], split: str) -> tuple[str, ...]:
    return tuple(language.wordings(dict(goal), split))


def _ground(task: Task, layout: Layout, goal: Goal, rng: np.random.Generator) -> dict[str, Any]:
    grounding = task.grounding(layout, goal)
    return {
        "instructions": _some_wordings(goal, rng, _SAID_OF_OTHERS),
        "target_base_m": grounding.target_base_m.tolist(),
        "receptacle_base_m": grounding.receptacle_base_m.tolist(),
        "reference_base_m": None if grounding.reference_base_m is None else grounding.reference_base_m.tolist(),
    }
