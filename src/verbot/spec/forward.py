"""Where the robot will be: its state after actions that are certain to be executed, rolled forward from now."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from verbot.errors import SpecError
from verbot.spec.arrays import FloatArray, FloatingArray
from verbot.spec.robot import Component, RobotSpec

MOVES = {  # kind of an action component: the kind of the state component that it moves
    "position_delta": "position",
    "rotation_delta": "quaternion",
    "position": "position",
    "quaternion": "quaternion",
    "joint_position": "joint_position",
    "gripper": "gripper",
}
DELTAS = ("position_delta", "rotation_delta")  # what they move runs after a target that they move


@dataclass(frozen=True)
class Response:
    """How a part of the state follows what it is commanded.

    Args:
        share: of the way that is left to its target, what it covers in one control step; 1 follows at once.
        lead: how far the target may run ahead, in the units of the action; None for any distance.
        is_switch: of a gripper that is only ever opened or closed: commands above the middle of its range open it.
    """

    share: float = 1.0
    lead: float | None = None
    is_switch: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1 or (self.lead is not None and not 0 < self.lead < np.inf):
            raise SpecError(
                f"a response has the share {self.share} and the lead {self.lead}; expected 0 < share <= 1 and a lead > 0"
            )


@dataclass(frozen=True)
class Move:
    """A part of the state that an action component moves: their places in the vectors, and how it follows."""

    action: Component
    of_action: slice
    of_state: slice


@dataclass(frozen=True)
class ForwardModel:
    """Rolls states forward along actions. Parts that no action moves stay as they are.

    A tool runs after its target, which displacements move: it covers `Response.share` of the way in each step, and the target is
    at most `Response.lead` ahead. How far ahead it is at first follows from the last step that the tool made. A gripper is where
    it was commanded to be: what it will hold is not known.

    Args:
        spec: the robot.
        responses: by the names of action components; those that are missing follow at once.

    Example:
        >>> from verbot.spec import Component
        >>> x = lambda kind: Component(kind, kind, ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
        >>> spec = RobotSpec("arm", 10.0, (), (x("position"),), (x("position_delta"),))
        >>> actions = np.full((1, 2, 3), 0.1, np.float32)
        >>> ForwardModel(spec).path(np.zeros((1, 3), np.float32), None, actions)[0, :, 0].astype(float).round(2).tolist()
        [0.1, 0.2]
    """

    spec: RobotSpec
    responses: Mapping[str, Response] = field(default_factory=dict)

    def __post_init__(self) -> None:
        known = {move.action.name for move in moves(self.spec)}
        if unknown := sorted(set(self.responses) - known):
            raise SpecError(f"robot {self.spec.name!r} has no action {unknown[0]!r} that moves its state; it has {sorted(known)}")

    def path(self, states: FloatArray, before: FloatArray | None, actions: FloatArray, only: Move | None = None) -> FloatArray:
        """The states (n, k, s) after each of the actions (n, k, a), from states (n, s).

        Args:
            before: the states (n, s) one control step earlier; None if they are not known: then the robot stands still at first.
            only: roll only this part forward.
        """
        path = np.repeat(states[:, None], actions.shape[1], 1).astype(np.float32)
        low, high = self.spec.action_low(), self.spec.action_high()
        clipped = np.clip(actions, low, high).astype(np.float64)
        for move in moves(self.spec) if only is None else (only,):
            start: FloatingArray = states[:, move.of_state].astype(np.float64)
            last = start if before is None else before[:, move.of_state].astype(np.float64)
            response = self.responses.get(move.action.name, Response())
            path[..., move.of_state] = _path(move.action, response, start, last, clipped[..., move.of_action])
        return path

    def ahead(self, state: FloatArray, before: FloatArray | None, actions: FloatArray) -> FloatArray:
        """The state (s,) after all actions (k, a)."""
        if not len(actions):
            return state
        found: FloatArray = self.path(state[None], None if before is None else before[None], actions[None])[0, -1]
        return found


def moves(spec: RobotSpec) -> list[Move]:
    """What the actions of a robot move: components of the same end effector, in the same frame and of fitting size."""
    found, taken = list[Move](), set[int]()
    every = tuple(component.name for component in spec.state)
    for tool in spec.end_effectors:
        tool = tool if spec.groups else dataclasses.replace(tool, state=every)  # its joints too
        for kind, moved in MOVES.items():
            action, state = spec.action_of(tool, kind), spec.state_of(tool, moved)
            if action is None or state is None or state[1].start in taken:
                continue
            if kind != "gripper" and action[0].frame != state[0].frame:
                continue
            if action[0].size == (3 if kind in DELTAS else state[0].size):
                found.append(Move(action[0], action[1], state[1]))
                taken.add(state[1].start)
    return found


def _path(
    action: Component, response: Response, start: FloatingArray, last: FloatingArray, actions: FloatingArray
) -> FloatingArray:
    """The path (n, k, d) of one part of the state."""
    if action.kind == "gripper":
        return _switched(action, actions) if response.is_switch else actions
    turns = action.kind in ("rotation_delta", "quaternion")
    return (_turning if turns else _moving)(action.kind, response, start, last, actions)


def _switched(action: Component, actions: FloatingArray) -> FloatingArray:
    low, high = np.array(action.low), np.array(action.high)
    return np.where(actions > (low + high) / 2, high, low)


def _moving(kind: str, response: Response, start: FloatingArray, last: FloatingArray, actions: FloatingArray) -> FloatingArray:
    share, out = response.share, []
    lead: FloatingArray = (1 - share) / share * (start - last)
    for step in range(actions.shape[1]):
        lead = _shortened(lead + actions[:, step] if kind in DELTAS else actions[:, step] - start, response.lead)
        start, lead = start + share * lead, (1 - share) * lead
        out.append(start)
    return np.stack(out, 1)


def _turning(kind: str, response: Response, start: FloatingArray, last: FloatingArray, actions: FloatingArray) -> FloatingArray:
    share, out = response.share, []
    start = start / np.maximum(np.linalg.norm(start, axis=-1, keepdims=True), 1e-9)
    lead = (1 - share) / share * _vector(_product(start, _conjugate(last)))
    for step in range(actions.shape[1]):
        if kind in DELTAS:
            lead = _vector(_product(_quaternion(actions[:, step]), _quaternion(lead)))
        else:
            lead = _vector(_product(actions[:, step], _conjugate(start)))
        lead = _shortened(lead, response.lead)
        start, lead = _product(_quaternion(share * lead), start), (1 - share) * lead
        out.append(start)
    return np.stack(out, 1)


def _shortened(lead: FloatingArray, most: float | None) -> FloatingArray:
    if most is None:
        return lead
    return lead * np.minimum(1.0, most / np.maximum(np.linalg.norm(lead, axis=-1, keepdims=True), 1e-9))


def _product(a: FloatingArray, b: FloatingArray) -> FloatingArray:
    """Quaternions (n, 4), w first."""
    (aw, ax, ay, az), (bw, bx, by, bz) = a.T, b.T
    rows = (
        aw * bw - ax * bx - ay * by - az * bz,
        aw * bx + ax * bw + ay * bz - az * by,
        aw * by - ax * bz + ay * bw + az * bx,
        aw * bz + ax * by - ay * bx + az * bw,
    )
    return np.stack(rows, -1)


def _conjugate(q: FloatingArray) -> FloatingArray:
    return q * np.array([1.0, -1.0, -1.0, -1.0])


def _quaternion(vector: FloatingArray) -> FloatingArray:
    """Of rotation vectors (n, 3)."""
    angle = np.linalg.norm(vector, axis=-1, keepdims=True)
    return np.concatenate([np.cos(angle / 2), 0.5 * np.sinc(angle / (2 * np.pi)) * vector], -1)


def _vector(q: FloatingArray) -> FloatingArray:
    """Rotation vectors (n, 3), of angles to π, of quaternions (n, 4)."""
    q = np.where(q[:, :1] < 0, -q, q)
    sine = np.linalg.norm(q[:, 1:], axis=-1, keepdims=True)
    angle = 2 * np.arctan2(sine, q[:, :1])
    return q[:, 1:] * np.where(sine > 1e-9, angle / np.maximum(sine, 1e-9), 2.0)
