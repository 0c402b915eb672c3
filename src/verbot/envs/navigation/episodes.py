"""Which episode: a scene, the goals that it admits and the words, as a function of (suite, task, split, index, seed) alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.contracts import EpisodeRequest, Goal
from verbot.envs.navigation import language, layout
from verbot.envs.navigation.tasks import task_of
from verbot.envs.navigation.world import NavigationScene
from verbot.envs.seeding import generator
from verbot.errors import ConfigError, SimulationError

SUITE = "navigation"
SPLITS, COMPOSITIONS, WORDINGS = ("train", "test"), ("seen", "unseen"), ("canonical", "seen", "unseen", "blank")
LEAST_FEASIBLE = 3
ARM_SHARE = 0.5  # of goals whose instruction mentions the arm
# Of each level of difficulty, the share of the way that is left when an episode begins; the arm matters in the last one alone.
LEFT = (0.15, 0.4, 0.7, 1.0, 1.0)
HARDEST = len(LEFT) - 1
_TRIES = 300
_SAID, _SAID_OF_OTHERS = 6, 3  # wordings listed for the goal, and for each that the scene admits


@dataclass(frozen=True)
class NavigationEpisode:
    """Everything that is decided before the first step; `info` is what `reset` and `step` tell and what never changes. `left` is
    the share of the way that the robot has still before it."""

    scene: NavigationScene
    goal: Goal
    instruction: str
    stream: Callable[[str], np.random.Generator]
    info: dict[str, Any]
    left: float


def prepare(tasks: Sequence[str], request: EpisodeRequest, seed: int) -> NavigationEpisode:
    """The episode that `request` asks for; `check` it before. Raises `ConfigError` for a goal that its scene does not admit."""
    task = request.task or str(generator(SUITE, "task", request.split, request.index, seed).choice(list(tasks)))
    key = (SUITE, task, request.split, request.index, seed, request.composition)

    def stream(name: str) -> np.random.Generator:
        return generator(*key, name)

    arms = request.level in (None, HARDEST)
    scene, goals = _draw(tasks, task, request.composition == "seen", arms, stream("scene"))
    if not 0 <= request.goal < len(goals):
        raise ConfigError(f"goal {request.goal} was asked for, but this scene admits goals 0 to {len(goals) - 1}")
    goal, rng = goals[request.goal], stream(f"words {request.goal}")
    instruction = _say(goal, request, rng)
    info = {
        "instruction": instruction,
        "instructions": list(dict.fromkeys([instruction, *_some(goal, _SAID, rng)])) if instruction else [""],
        "goal": goal,
        "task": goal["verb"],
        "target_object": goal["object"],
        "feasible": goals,
        "grounding": [_ground(scene, g, rng) for g in goals],
    }
    return NavigationEpisode(scene, goal, instruction, stream, info, LEFT[HARDEST if request.level is None else request.level])


def check(request: EpisodeRequest, tasks: Sequence[str]) -> None:
    """Raise `ConfigError` if `request` names what does not exist."""
    for label, value, known in (
        ("split", request.split, SPLITS),
        ("wording", request.wording, WORDINGS),
        ("composition", request.composition, COMPOSITIONS),
        ("task", request.task or tasks[0], tuple(tasks)),
    ):
        if value not in known:
            raise ConfigError(f"{label} of the navigation env is {value!r}; expected one of {', '.join(known)}")
    if request.level is not None and not 0 <= request.level <= HARDEST:
        raise ConfigError(f"level of the navigation env is {request.level}; expected 0 to {HARDEST}")
    if axes := [axis for axis, strength in request.axes.items() if strength]:
        raise ConfigError(f"the navigation env has no randomization axis {axes[0]!r}; it has none")


def _draw(
    tasks: Sequence[str], task: str, demonstrated: bool, arms: bool, rng: np.random.Generator
) -> tuple[NavigationScene, list[Goal]]:
    """A scene that admits a goal of `task`, and all that it admits, the drawn one first; with `arms` some have an arm pose."""
    for _ in range(_TRIES):
        scene = layout.sample(rng)
        goals = [goal for verb in tasks for goal in _offered(scene, verb, rng)]
        if not arms:
            pairs = dict.fromkeys((goal["verb"], goal["object"]) for goal in goals)
            goals = [{"verb": verb, "object": name, "arm": None} for verb, name in pairs]
        wanted = [goal for goal in goals if goal["verb"] == task and language.is_demonstrated(goal) == demonstrated]
        if not wanted:
            continue
        goal = wanted[int(rng.integers(len(wanted)))]
        others = [g for g in goals if g is not goal and (not demonstrated or language.is_demonstrated(g))]
        ordered = [goal, *_in_turns(others, goal["object"], rng)]
        if len(ordered) >= (LEAST_FEASIBLE if arms else 2) and len({g["object"] for g in ordered}) > 1:
            return scene, ordered
    raise SimulationError(f"no scene for task {task!r} with demonstrated={demonstrated} in {_TRIES} tries")


def _offered(scene: NavigationScene, verb: str, rng: np.random.Generator) -> list[Goal]:
    """The goals of `verb`; of a task that has few, each also with the other arm position."""
    named = scene.lines if verb == "follow" else scene.objects
    goals: list[Goal] = []
    for one in named:
        arm = language.ARMS[int(rng.integers(2))] if rng.random() < ARM_SHARE else None
        goals.append({"verb": verb, "object": one.name, "arm": arm})
        if verb == "follow":
            other = {None: "raised", "raised": "lowered", "lowered": "raised"}[arm]
            goals.append({"verb": verb, "object": one.name, "arm": other})
    return goals


def _in_turns(goals: list[Goal], drawn: str, rng: np.random.Generator) -> list[Goal]:
    """Shuffled so that neighbors name different objects, one other than `drawn` first."""
    piles: dict[str, list[Goal]] = {}
    for i in rng.permutation(len(goals)):
        piles.setdefault(goals[i]["object"], []).append(goals[i])
    order = sorted(piles, key=lambda name: name == drawn)
    return [piles[name][turn] for turn in range(len(goals)) for name in order if turn < len(piles[name])]


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
    known = language.known(goal, request.wording)
    return known[int(rng.integers(len(known)))]


def _some(goal: Goal, count: int, rng: np.random.Generator) -> list[str]:
    """Wordings to train on."""
    known = language.known(goal, "seen")
    return [known[i] for i in rng.permutation(len(known))[:count]]


def _ground(scene: NavigationScene, goal: Goal, rng: np.random.Generator) -> dict[str, Any]:
    """Where the goal begins, which way it leads and where it ends on the floor, z = 0, for the keypoint loss."""
    begin, middle, end = ([x, y, 0.0] for x, y in task_of(goal, scene).points_m())
    return {
        "instructions": _some(goal, _SAID_OF_OTHERS, rng),
        "target_base_m": begin,
        "receptacle_base_m": end,
        "reference_base_m": middle,
    }
