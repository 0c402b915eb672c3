"""From a point of a picture to a place on the table, and back: a pinhole camera."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from verbot.errors import SimulationError
from verbot.spec import Float64Array


@dataclass(frozen=True)
class Projection:
    """A camera whose pose in the base frame is known. Points of its picture are (x, y) from 0 to 1, from the upper left corner.

    Args:
        matrix: the pinhole matrix (3, 3), in units of the picture's width.
        pose: of the camera (4, 4) in the base frame; it looks along z, y is down.
    """

    matrix: Float64Array
    pose: Float64Array

    @staticmethod
    def of(calibration: Mapping[str, Any], width: int) -> Projection:
        """From an entry of ``info["calibration"]`` of a camera of square pictures, `width` pixels wide.

        Example:
            >>> down = [1, 0, 0, 0.5, 0, -1, 0, 0, 0, 0, -1, 1, 0, 0, 0, 1]  # 1 m above (0.5, 0), and looks down
            >>> view = Projection.of({"intrinsics": [50, 0, 50, 0, 50, 50, 0, 0, 1], "extrinsics": down}, 100)
            >>> view.pixel((0.5, 0.2, 0.0)), view.on_plane((0.5, 0.4), 0.0)
            ((0.5, 0.4), (0.5, 0.2))
        """
        matrix = np.reshape(np.array(calibration["intrinsics"], np.float64), (3, 3)).copy()
        matrix[:2] /= width
        return Projection(matrix, np.reshape(np.array(calibration["extrinsics"], np.float64), (4, 4)))

    def pixel(self, point: tuple[float, float, float]) -> tuple[float, float]:
        """Where a point of the base frame, m, is in the picture; infinitely far if it is behind the camera."""
        x, y, z = (np.array(point) - self.pose[:3, 3]) @ self.pose[:3, :3]
        if z <= 1e-6:
            return (float("inf"), float("inf"))
        u, v, _ = self.matrix @ (x / z, y / z, 1.0)
        return round(float(u), 9), round(float(v), 9)

    def on_plane(self, at: tuple[float, float], height_m: float) -> tuple[float, float]:
        """The point (x, y) of the base frame, m, that is shown at a point of the picture, if it is at this height.

        Raises `SimulationError` if the horizon is below it.
        """
        ray = self.pose[:3, :3] @ np.linalg.solve(self.matrix, (*at, 1.0))
        if abs(ray[2]) < 1e-9 or (length := (height_m - self.pose[2, 3]) / ray[2]) <= 0:
            raise SimulationError("no place of the table is shown at that point")
        x, y = (self.pose[:3, 3] + length * ray)[:2]
        return round(float(x), 9), round(float(y), 9)
