"""The arm's mount. Scenes, cameras and instructions stay the same; state and action are in the frame of the arm's base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.errors import UnknownNameError
from verbot.spec import Float64Array


@dataclass(frozen=True)
class RobotMount:
    """A place of the arm's base at the table, in the frame of the scene, which is that of the base at ``"back"``.

    Args:
        name: name of the place, as a person calls it who looks through the front camera.
        x, y: the coordinates of the base, m.
        quarter_turns: number of quarter turns of the base about the vertical, counterclockwise from above; whole ones, so that
            the ranges of an action are those of the same axes in the scene.
    """

    name: str
    x: float = 0.0
    y: float = 0.0
    quarter_turns: int = 0

    @property
    def rotation(self) -> Float64Array:
        """(3, 3), from the base's frame to the scene's; of whole numbers, so that a turn and back is exact."""
        c, s = ((1, 0), (0, 1), (-1, 0), (0, -1))[self.quarter_turns % 4]
        return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], float)

    @property
    def matrix(self) -> Float64Array:
        """The base's pose (4, 4) in the scene."""
        pose = np.eye(4)
        pose[:3, :3], pose[:2, 3] = self.rotation, (self.x, self.y)
        return pose

    @property
    def quaternion(self) -> tuple[float, float, float, float]:
        """Of the base in the scene, w first."""
        half = self.quarter_turns * np.pi / 4
        return (float(np.cos(half)), 0.0, 0.0, float(np.sin(half)))

    def point(self, place: Float64Array) -> Float64Array:
        """A point (3,) of the scene in the base's frame."""
        return (place - (self.x, self.y, 0.0)) @ self.rotation

    def place(self, point: tuple[float, float]) -> tuple[float, float]:
        """A place (x, y) of the base's frame in the scene."""
        x, y, _ = self.rotation @ (*point, 0.0) + (self.x, self.y, 0.0)
        return float(x), float(y)

    def turned(self, rotation: Float64Array) -> Float64Array:
        """A rotation (3, 3) of the scene in the base's frame."""
        return self.rotation.T @ rotation

    def box(self, low: Float64Array, high: Float64Array) -> tuple[Float64Array, Float64Array]:
        """The corners (3,) of a box of the scene, as one of the base's frame."""
        a, b = self.point(low), self.point(high)
        return np.minimum(a, b), np.maximum(a, b)

    def to_scene(self, action: Float64Array) -> Float64Array:
        """An action (7,) in the base's frame as one of the scene's: a step, a turn and the gripper."""
        return np.concatenate([self.rotation @ action[:3], self.rotation @ action[3:6], action[6:]])

    def to_base(self, action: Float64Array) -> Float64Array:
        """The inverse of `to_scene`."""
        return np.concatenate([action[:3] @ self.rotation, action[3:6] @ self.rotation, action[6:]])

    def grounding(self, goal: Mapping[str, Any]) -> dict[str, Any]:
        """An entry of ``info["grounding"]`` of the scene with its points in the base's frame."""
        return {
            name: self.point(np.array(value)).tolist() if name.endswith("_base_m") and value is not None else value
            for name, value in goal.items()
        }


MOUNTS = {
    "back": RobotMount("back"),  # opposite the front camera
    "right": RobotMount("right", 0.50, 0.52, -1),
}


def find(name: str) -> RobotMount:
    """Raises `UnknownNameError`."""
    if name not in MOUNTS:
        raise UnknownNameError("mount of the arm", name, MOUNTS)
    return MOUNTS[name]
