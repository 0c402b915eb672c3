"""What the expert has before it: the subtasks of a goal in words, and which of them the present state calls for."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from verbot.contracts import Goal
from verbot.envs.tabletop.language import grammar, templates_relations
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.tasks import TabletopTask

OVER_M, LOW_M = 0.020, 0.045  # the tool is over an object; and low enough to grasp it
LIFTED_M = 0.035  # above where it rested, an object is in the air
THERE_M = 0.05  # of the task's error: what is left is to let go
SHUT = 0.3  # of the gripper's opening

Subtasks = tuple[tuple[str, ...], int]  # in order; and the present one, counted from 0
_Stage = Callable[[Physics, TabletopTask, Goal], int]


def subtasks(physics: Physics, task: TabletopTask, goal: Goal) -> Subtasks:
    """The plan for `goal`, and the subtask of the present state: a function of both, as the expert's actions are.

    A verb without a plan of its own has one subtask, its plain sentence.
    """
    if goal["verb"] == "sort_color":
        return _sorting(physics, goal)
    if goal["verb"] not in _PLANS:
        return (grammar.canonical(goal),), 0
    steps, stage = _PLANS[goal["verb"]]
    words = {**goal, "object": _said(goal)}
    words["heading"] = _heading(goal)
    return tuple(step.format(**words) for step in steps), stage(physics, task, goal)


def _said(goal: Goal) -> str:
    """The object in words: its relation where the name alone would not single it out."""
    if "relation" in goal:
        return templates_relations.SEEN[goal["relation"]][0].format(**goal)
    return str(goal["object"])


def _heading(goal: Goal) -> str:
    direction = goal.get("direction", "")
    return f"to the {direction}" if direction in ("left", "right") else direction


def _grasping(physics: Physics, name: str) -> int:
    """0 while the tool is not over the object and low, then 1."""
    offset = physics.tool_position - physics.position(name)
    return int(np.hypot(offset[0], offset[1]) < OVER_M and offset[2] < LOW_M)


def _lifting(physics: Physics, task: TabletopTask, goal: Goal) -> int:
    """Reach, grasp, lift, and hold for what is to be held."""
    name = goal["object"]
    if not physics.grasped(name):
        return _grasping(physics, name)
    return 3 if goal["verb"] == "lift_and_hold" and task.error_m(physics, goal) <= 0.0 else 2


def _carrying(physics: Physics, task: TabletopTask, goal: Goal) -> int:
    """Reach, grasp, lift, carry, put down."""
    name = goal["object"]
    there, height = task.error_m(physics, goal) < THERE_M, physics.position(name)[2] - physics.starts[name][2]
    if not physics.grasped(name):
        moved = physics.highest[name] - physics.starts[name][2] > LIFTED_M
        return 4 if there and moved else _grasping(physics, name)
    if there and physics.farthest[name] > OVER_M:
        return 4
    return 3 if height > LIFTED_M else 2


def _returning(physics: Physics, task: TabletopTask, goal: Goal) -> int:
    """Reach, grasp, lift, carry there, carry back, put down."""
    stage = _carrying(physics, task, goal)
    if goal["receptacle"] not in physics.visited[goal["object"]]:
        return min(stage, 3)
    return 5 if stage == 4 else 4 if physics.grasped(goal["object"]) else stage


def _pushing(physics: Physics, task: TabletopTask, goal: Goal) -> int:
    return int(physics.opening < SHUT and physics.tool_position[2] < LOW_M)


def _drawing(physics: Physics, task: TabletopTask, goal: Goal) -> int:
    return int(physics.opening < SHUT and physics.tool_position[2] < LOW_M + 0.015)


def _pressing(physics: Physics, task: TabletopTask, goal: Goal) -> int:
    button = physics.layout.fixtures["button"]
    x, y, _ = physics.tool_position - (button.x, button.y, 0.0)
    return int(physics.opening < SHUT and np.hypot(x, y) < OVER_M)


def _sorting(physics: Physics, goal: Goal) -> Subtasks:
    """One subtask for each object: the one in the gripper, else the nearest that is not at the receptacle yet."""
    objects = [obj.id for obj in physics.layout.movables if obj.color == goal["color"]]
    plan = tuple(f"put the {name} {goal['preposition']} the {goal['receptacle']}" for name in objects)
    middle = physics.position(goal["receptacle"])
    held = [name for name in objects if physics.grasped(name)]
    left = [name for name in objects if np.hypot(*(physics.position(name) - middle)[:2]) > THERE_M]
    near = sorted(left, key=lambda name: float(np.linalg.norm(physics.position(name) - physics.tool_position)))
    present = next(iter((*held, *near)), objects[-1])
    return plan, objects.index(present)


_REACH = ("reach the {object}", "grasp the {object}", "lift the {object}")
_CARRY = (*_REACH, "carry the {object} to the {receptacle}", "put the {object} down {preposition} the {receptacle}")
_AWAY = (*_REACH, "carry the {object} away from the {receptacle}", "put the {object} down")
_BACK = (*_REACH, "carry the {object} to the {receptacle}", "carry the {object} back", "put the {object} down")
_PLANS: dict[str, tuple[tuple[str, ...], _Stage]] = {
    "pick": (_REACH, _lifting),
    "lift_and_hold": ((*_REACH, "hold the {object}"), _lifting),
    "put": (_CARRY, _carrying),
    "stack": (_CARRY, _carrying),
    "place_next_to": (_CARRY, _carrying),
    "move_away": (_AWAY, _carrying),
    "put_back": (_BACK, _returning),
    "push": (("move next to the {object}", "push the {object} {heading}"), _pushing),
    "open_drawer": (("reach the handle of the drawer", "pull the drawer open"), _drawing),
    "close_drawer": (("move in front of the drawer", "push the drawer shut"), _drawing),
    "press_button": (("move over the button", "press the button"), _pressing),
}
