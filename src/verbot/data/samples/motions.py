"""The motion of an end effector over the next actions, as numbers: what words of motion are made from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from verbot.errors import ConfigError
from verbot.spec import BASE, BoolArray, Float64Array, FloatArray, RobotSpec

OPEN = 0.8  # of its range: fingers around an object are less open, and fingers that were let go are more


@dataclass(frozen=True)
class EndEffectorMotion:
    """What the next actions ask of the first end effector.

    Args:
        moved_m: (3,) in the base frame.
        turned_rad: about the vertical, counterclockwise from above.
        gripper: ``"open"`` or ``"close"`` where the last of the actions asks for the other than the state's; else empty.
    """

    moved_m: Float64Array
    turned_rad: float
    gripper: str


def check_has_motion(spec: RobotSpec) -> None:
    """Raise `ConfigError` for a robot whose actions do not say where the end effector goes."""
    tools = spec.end_effectors
    if not tools or not (spec.action_of(tools[0], "position_delta") or spec.action_of(tools[0], "position")):
        raise ConfigError(
            f"MOVE needs actions of the end effector's position, and those of robot {spec.name!r} are "
            f"{', '.join(c.kind for c in spec.action) or 'none'}: leave 'move' out of text.parts"
        )


def motion_of(actions: FloatArray, mask: BoolArray, state: FloatArray, spec: RobotSpec) -> EndEffectorMotion:
    """The motion over the actions (k, a) that `mask` (k,) knows, from `state` (s,); none without actions.

    Raises `ConfigError` as `check_has_motion` does.
    """
    check_has_motion(spec)
    tool, known = spec.end_effectors[0], np.asarray(actions, np.float64)[mask]
    moved, turned, gripper = np.zeros(3), 0.0, ""
    if not len(known):
        return EndEffectorMotion(moved, turned, gripper)
    if (delta := spec.action_of(tool, "position_delta")) is not None and delta[0].frame == BASE:
        moved = known[:, delta[1]].sum(0)
    elif (goal := spec.action_of(tool, "position")) and (place := spec.state_of(tool, "position")):
        moved = known[-1, goal[1]] - state[place[1]]
    if (turn := spec.action_of(tool, "rotation_delta")) is not None and turn[0].frame == BASE:
        turned = float(known[:, turn[1]][:, 2].sum())
    if (command := spec.action_of(tool, "gripper")) and (opening := spec.state_of(tool, "gripper")):
        (component, where), (now, place_now) = command, opening
        asked = bool(known[-1, where.start] > (component.low[0] + component.high[0]) / 2)
        is_open = bool(state[place_now.start] > now.low[0] + OPEN * (now.high[0] - now.low[0]))
        gripper = "open" if asked and not is_open else "close" if is_open and not asked else ""
    return EndEffectorMotion(moved, turned, gripper)
