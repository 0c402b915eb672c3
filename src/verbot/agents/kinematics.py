"""Forward kinematics of a serial chain, for several configurations at once. Numpy only."""

from __future__ import annotations

import numpy as np

from verbot.spec import Float64Array, KinematicChain
from verbot.spec.kinematics import ANGLE_UNITS, LENGTH_UNITS


class ForwardKinematics:
    """The position of the end effector of a chain.

    The transform of each joint is one of Rodrigues' formula (R = I + sin θ K + (1 − cos θ) K²), and they are multiplied in pairs.

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
        joints, unit = chain.joints, unit.removesuffix("/s")
        count = 1 << (len(joints) - 1).bit_length()
        # Of each joint: what is constant in its transform, and what sin θ, cos θ and a slide by one meter add to it.
        basis, self._sources, self._scales = np.zeros((count, 4, 4, 4)), np.zeros(count, int), np.zeros(count)
        basis[:, 0] = np.eye(4)
        for i, joint in enumerate(joints):
            placed = np.eye(4)
            placed[:3, :3], placed[:3, 3] = _rotation(np.array(joint.quaternion)), joint.xyz
            axis = np.array(joint.axis) / np.linalg.norm(joint.axis)
            cross = _cross(axis)
            basis[i, 0] = placed
            if joint.kind == "revolute":
                turned = placed[:3, :3] @ cross @ cross
                basis[i, 0, :3, :3] += turned
                basis[i, 1, :3, :3], basis[i, 2, :3, :3] = placed[:3, :3] @ cross, -turned
            if joint.kind == "prismatic":
                basis[i, 3, :3, 3] = placed[:3, :3] @ axis
            if joint.kind != "fixed":
                self._sources[i] = axes.index(joint.name)
                self._scales[i] = (ANGLE_UNITS if joint.kind == "revolute" else LENGTH_UNITS)[unit]
        self._basis = basis.reshape(count, 4, 16)
        self.reach = self._reach(chain, axes)

    def _reach(self, chain: KinematicChain, axes: tuple[str, ...]) -> Float64Array:
        """How far the end effector moves at most for a change by 1 of each axis, in m; infinite where a slide carries on."""
        reach, arm_m = np.zeros(len(axes)), 0.0
        for i, joint in reversed(list(enumerate(chain.joints))):
            if joint.kind != "fixed":
                reach[axes.index(joint.name)] = self._scales[i] * (arm_m if joint.kind == "revolute" else 1.0)
            arm_m += float(np.linalg.norm(joint.xyz)) if joint.kind != "prismatic" else np.inf
        return reach

    def positions(self, values: Float64Array) -> Float64Array:
        """Positions (k, 3), in m in the base frame, for values (k, axes) of the component."""
        q = values.T[self._sources] * self._scales[:, None]
        parts = np.empty((*q.shape, 4))
        parts[:, :, 0], parts[:, :, 1], parts[:, :, 2], parts[:, :, 3] = 1.0, np.sin(q), np.cos(q), q
        transforms = (parts @ self._basis).reshape(*q.shape, 4, 4)
        while len(transforms) > 1:
            transforms = transforms[0::2] @ transforms[1::2]
        position: Float64Array = transforms[0, :, :3, 3]
        return position


def _cross(axis: Float64Array) -> Float64Array:
    x, y, z = axis
    return np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _rotation(quaternion: Float64Array) -> Float64Array:
    """The matrix of a quaternion, w first."""
    w, *vector = quaternion / np.linalg.norm(quaternion)
    cross = _cross(np.array(vector))
    matrix: Float64Array = np.eye(3) + 2.0 * w * cross + 2.0 * cross @ cross
    return matrix
