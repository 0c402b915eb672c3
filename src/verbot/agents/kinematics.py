"""Forward kinematics of a serial chain, for several configurations at once. Numpy only."""

from __future__ import annotations

import copy
import math

import numpy as np

from verbot.spec import Float64Array, KinematicChain
from verbot.spec.kinematics import ANGLE_UNITS, LENGTH_UNITS

_PHASES = np.array([0.5 * math.pi, 0.0])  # cos q is the sine of q + π/2


class ForwardKinematics:
    """The position of the end effector of a chain.

    Frames are chosen so that each joint moves about or along the z axis of its own. From the tip to the base, a turn is then a
    product of complex numbers (x + iy), and what lies between two joints one constant matrix.

    Args:
        chain: with at least one joint.
        axes: names of the axes of its component.
        unit: of that component, e.g. ``"rad"`` or ``"rad/s"``.

    Example:
        >>> from verbot.spec import ChainJoint
        >>> tip = ChainJoint("tip", (0.5, 0.0, 0.0), kind="fixed")
        >>> chain = KinematicChain("tool", "joints", (ChainJoint("pan", (0.0, 0.0, 1.0)), tip))
        >>> ForwardKinematics(chain, ("pan",), "rad").positions(np.array([[0.0], [np.pi / 2]])).round(3).tolist()
        [[0.5, 0.0, 1.0], [0.0, 0.5, 1.0]]
    """

    def __init__(self, chain: KinematicChain, axes: tuple[str, ...], unit: str):
        unit = unit.removesuffix("/s")
        between, self._scales = np.eye(4), np.zeros((len(axes), 1))
        self._joints: list[tuple[int, bool, Float64Array]] = []  # from the tip: axis, whether it turns, what lies before it
        for joint in chain.joints:
            placed = np.eye(4)
            placed[:3, :3], placed[:3, 3] = _rotation(np.array(joint.quaternion)), joint.xyz
            between = between @ placed
            if joint.kind == "fixed":
                continue
            source, is_turn, aligned = axes.index(joint.name), joint.kind == "revolute", np.eye(4)
            self._scales[source, 0] = (ANGLE_UNITS if is_turn else LENGTH_UNITS)[unit]
            aligned[:3, :3] = _aligned(np.array(joint.axis))
            self._joints.insert(0, (source, is_turn, np.ascontiguousarray((between @ aligned).T)))
            between = aligned.T
        self._tip, self._is_scaled = between[:, 3].copy(), not np.isin(self._scales, (0.0, 1.0)).all()
        self.reach = self._reach(chain, axes)

    def _reach(self, chain: KinematicChain, axes: tuple[str, ...]) -> Float64Array:
        """How far the end effector moves at most for a change by 1 of each axis, in m; infinite where a slide carries on."""
        reach, arm_m = np.zeros(len(axes)), 0.0
        for joint in reversed(chain.joints):
            if joint.kind != "fixed":
                source = axes.index(joint.name)
                reach[source] = self._scales[source, 0] * (arm_m if joint.kind == "revolute" else 1.0)
            arm_m += float(np.linalg.norm(joint.xyz)) if joint.kind != "prismatic" else np.inf
        return reach

    def seen_from(self, origin: Float64Array) -> ForwardKinematics:
        """The same, with positions that count from `origin` (3,), in m in the base frame."""
        moved = copy.copy(self)
        source, is_turn, before = self._joints[-1]
        before = before.copy()
        before[3, :3] -= origin
        moved._joints = [*self._joints[:-1], (source, is_turn, before)]
        return moved

    def positions(self, values: Float64Array) -> Float64Array:
        """Positions (k, 3), in m in the base frame, for values (k, axes) of the component."""
        q, count = values.T, len(values)
        if self._is_scaled:
            q = q * self._scales
        turns = np.sin(q[:, :, None] + _PHASES).view(complex)[:, :, 0]  # cos + i sin
        points, others = np.empty((count, 4)), np.empty((count, 4))  # x, y, z, 1
        points[:] = self._tip
        planes, other_planes = points.view(complex)[:, 0], others.view(complex)[:, 0]  # the same memory: x + iy
        for source, is_turn, before in self._joints:
            if is_turn:
                np.multiply(planes, turns[source], planes)
            else:
                points[:, 2] += q[source]
            points.dot(before, others)
            points, others, planes, other_planes = others, points, other_planes, planes
        return points[:, :3]


def _aligned(axis: Float64Array) -> Float64Array:
    """A rotation that brings the z axis to `axis`."""
    z = axis / np.linalg.norm(axis)
    x = np.cross(np.eye(3)[np.argmin(np.abs(z))], z)
    x /= np.linalg.norm(x)
    rotation: Float64Array = np.stack([x, np.cross(z, x), z], axis=1)
    return rotation


def _cross(axis: Float64Array) -> Float64Array:
    x, y, z = axis
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _rotation(quaternion: Float64Array) -> Float64Array:
    """The matrix of a quaternion, w first."""
    w, *vector = quaternion / np.linalg.norm(quaternion)
    cross = _cross(np.array(vector))
    matrix: Float64Array = np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross
    return matrix
