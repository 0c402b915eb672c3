"""The arm: the published kinematics of the Franka Emika Panda as facts, and damped least-squares tracking.

Sources: Franka's joint offsets and limits (https://frankaemika.github.io/docs/control_parameters.html); damped least squares:
Wampler, "Manipulator inverse kinematic solutions based on vector formulations and damped least-squares methods", 1986.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import mujoco
import numpy as np

from verbot.spec import Float64Array


@dataclass(frozen=True)
class Joint:
    """One revolute joint about its own z axis: where it sits in its parent (m, quaternion w first), its range and its gain."""

    offset_m: tuple[float, float, float]
    quaternion: tuple[float, float, float, float]
    low_rad: float
    high_rad: float
    gain: float  # N·m/rad; damping is a tenth of it


_H = 0.7071067811865476
JOINTS = (
    Joint((0.0, 0.0, 0.333), (1.0, 0.0, 0.0, 0.0), -2.8973, 2.8973, 4500.0),
    Joint((0.0, 0.0, 0.0), (_H, -_H, 0.0, 0.0), -1.7628, 1.7628, 4500.0),
    Joint((0.0, -0.316, 0.0), (_H, _H, 0.0, 0.0), -2.8973, 2.8973, 3500.0),
    Joint((0.0825, 0.0, 0.0), (_H, _H, 0.0, 0.0), -3.0718, -0.0698, 3500.0),
    Joint((-0.0825, 0.384, 0.0), (_H, -_H, 0.0, 0.0), -2.8973, 2.8973, 2000.0),
    Joint((0.0, 0.0, 0.0), (_H, _H, 0.0, 0.0), -0.0175, 3.7525, 2000.0),
    Joint((0.088, 0.0, 0.0), (_H, _H, 0.0, 0.0), -2.8973, 2.8973, 2000.0),
)
DAMPING_S = 0.1  # damping over gain
FLANGE_M = 0.107  # from joint 7 to the flange, on which the hand is turned by −45°
FINGER_M = 0.0584  # from the hand to the finger joints
TOOL_M = 0.1034  # from the hand to the point between the finger pads
FINGER_TRAVEL_M = 0.04
READY_RAD = (0.0, -0.785398, 0.0, -2.356194, 0.0, 1.570796, 0.785398)  # Franka's "ready" pose: where the search starts
HOME_TOOL_M = (0.44, 0.0, 0.22)

LOW_RAD = np.array([joint.low_rad for joint in JOINTS])
HIGH_RAD = np.array([joint.high_rad for joint in JOINTS])

_DAMPING = 1e-4 * np.eye(6)
_REFERENCE_RAD, _RELAXATION, _LARGEST_STEP_RAD = np.array(READY_RAD), 0.1, 0.25
# Near a limit by so much, orientation is given up for a position that is missed by so much, until it is met.
_NEAR_RAD, _MISS_M, _MET_M, _POSITION_ITERATIONS, _LARGEST_TURN_RAD = 0.1, 0.005, 0.001, 16, 0.05


def rotation_from_vector(vector: Float64Array) -> Float64Array:
    """The rotation matrix (3, 3) of a rotation vector (3,), by Rodrigues' formula."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    k = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + np.sin(angle) * k + (1.0 - np.cos(angle)) * (k @ k)


def vector_from_rotation(matrix: Float64Array) -> Float64Array:
    """The rotation vector (3,) of a rotation matrix (3, 3); the inverse of `rotation_from_vector` for angles below π."""
    quaternion, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quaternion, np.ascontiguousarray(matrix).reshape(9))
    mujoco.mju_quat2Vel(vector, quaternion, 1.0)
    return vector


def within_tilt(rotation: Float64Array, limit_rad: float) -> Float64Array:
    """`rotation` (3, 3), turned back as little as possible so that its z axis leans at most `limit_rad` from the vertical."""
    x, y, z = rotation[:, 2]
    tilt, across = float(np.arccos(np.clip(z, -1.0, 1.0))), float(np.hypot(x, y))
    if tilt <= limit_rad or across < 1e-9:
        return rotation
    return rotation_from_vector(np.array((y, -x, 0.0)) * ((tilt - limit_rad) / across)) @ rotation


def rotation_about_z(angle_rad: float) -> Float64Array:
    c, s = np.cos(angle_rad), np.sin(angle_rad)
    return np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])


def _at_most(step: Float64Array, largest: float) -> Float64Array:
    return step * min(1.0, largest / (float(np.abs(step).max()) + 1e-9))


_StepOf = Callable[[Float64Array, Float64Array, Float64Array], Float64Array]  # of joints, error and free joints


class Tracker:
    """Joint targets that bring the tool to a pose: damped least squares on the arm alone (λ² = 1e-4).

    Args:
        model: a compiled model that holds the seven arm joints first and a site called ``tool``.
    """

    def __init__(self, model: mujoco.MjModel):
        self._model, self._data = model, mujoco.MjData(model)
        self._site = model.site("tool").id
        self._jacobian = np.zeros((6, model.nv))

    def solve(self, joints: Float64Array, position: Float64Array, rotation: Float64Array, iterations: int = 4) -> Float64Array:
        """Joints (7,) near `joints` whose tool pose is `position` (3,) and `rotation` (3, 3), within the limits.

        Where a joint is at its limit and the pose cannot be had, the position comes first.
        """
        joints = joints.copy()
        for _ in range(iterations):
            joints = self._nearer(self._step, joints, self._error(joints, position, rotation))
        if not ((joints < LOW_RAD + _NEAR_RAD) | (joints > HIGH_RAD - _NEAR_RAD)).any():
            return joints
        missed_m = _MISS_M
        for _ in range(_POSITION_ITERATIONS):
            error = self._error(joints, position, rotation)
            if np.linalg.norm(error[:3]) <= missed_m:
                break
            joints, missed_m = self._nearer(self._position_step, joints, error), _MET_M
        return joints

    def _error(self, joints: Float64Array, position: Float64Array, rotation: Float64Array) -> Float64Array:
        """How far the tool is from a pose (6,), in m and rad, and the Jacobian there in `_jacobian`."""
        model, data, jacobian, error = self._model, self._data, self._jacobian, np.empty(6)
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_jacSite(model, data, jacobian[:3], jacobian[3:], self._site)
        error[:3] = position - data.site_xpos[self._site]
        error[3:] = vector_from_rotation(rotation @ data.site_xmat[self._site].reshape(3, 3).T)
        return error

    @staticmethod
    def _nearer(step_of: _StepOf, joints: Float64Array, error: Float64Array) -> Float64Array:
        step = step_of(joints, error, np.ones(7))
        out = (joints + step < LOW_RAD) | (joints + step > HIGH_RAD)
        if out.any():  # hold joints that would leave their range; else the others follow a motion that never comes
            step = step_of(joints, error, (~out).astype(float))
        return np.clip(joints + step, LOW_RAD, HIGH_RAD)

    def _position_step(self, joints: Float64Array, error: Float64Array, free: Float64Array) -> Float64Array:
        """One damped step of the `free` joints towards the position. What it leaves open turns the tool."""
        j = self._jacobian[:, :7] * free
        inverse = j[:3].T @ np.linalg.inv(j[:3] @ j[:3].T + _DAMPING[:3, :3])
        step = _at_most(inverse @ error[:3], _LARGEST_STEP_RAD)
        turning = j[3:] @ (np.eye(7) - inverse @ j[:3])
        turn = turning.T @ np.linalg.solve(turning @ turning.T + 0.01 * np.eye(3), error[3:] - j[3:] @ step)
        return step + _at_most(turn, _LARGEST_TURN_RAD)

    def _step(self, joints: Float64Array, error: Float64Array, free: Float64Array) -> Float64Array:
        """One damped step of the `free` joints. What the pose leaves open goes back to the reference posture."""
        j, relaxing = self._jacobian[:, :7] * free, free * _RELAXATION * (_REFERENCE_RAD - joints)
        step = relaxing + j.T @ np.linalg.solve(j @ j.T + _DAMPING, error - j @ relaxing)
        return _at_most(step, _LARGEST_STEP_RAD)

    def reach(self, position: Float64Array, rotation: Float64Array) -> Float64Array:
        """Joints (7,) for a pose anywhere above the table, searched from the ready pose."""
        return self.solve(np.array(READY_RAD), position, rotation, iterations=60)
