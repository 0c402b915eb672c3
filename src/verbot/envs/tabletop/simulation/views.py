"""Where the cameras stand, and the screen that may stand before one of them. Needs no simulator."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class View:
    """A camera: where it stands and looks, in its frame (``"base"`` or ``"tool"``), and its vertical field of view."""

    position_m: tuple[float, float, float]
    target_m: tuple[float, float, float]
    fovy_deg: float
    frame: str = "base"


VIEWS = {
    "front": View((1.08, 0.0, 0.62), (0.485, 0.0, 0.02), 39.0),
    "wrist": View((0.075, 0.0, 0.065), (0.030, 0.0, -0.02), 75.0, "tool"),
    "side": View((0.50, -0.74, 0.52), (0.51, 0.0, 0.02), 33.0),  # from the left of a person who looks through the front camera
}

SCREEN_X_M = 0.80  # the table's edge, out of the hand's reach: nothing ever touches the screen
SCREEN_HEIGHT_M, SCREEN_HALF_WIDTH_M, SCREEN_THICKNESS_M = 0.40, 0.085, 0.003


@dataclass(frozen=True)
class Screen:
    """An opaque upright panel at `SCREEN_X_M`, between the front camera and the table; `y` is its middle's."""

    y: float

    def hides(self, x: float, y: float, radius_m: float, height_m: float) -> bool:
        """Whether an upright box around an object on the table is wholly behind the screen for the nominal front camera.

        A box is convex, and so is what the screen covers: its corners decide.
        """
        eye = np.array(VIEWS["front"].position_m)
        corners = itertools.product((x - radius_m, x + radius_m), (y - radius_m, y + radius_m), (0.0, height_m))
        rays = np.array(list(corners)) - eye  # (8, 3)
        across = eye + rays * ((SCREEN_X_M - eye[0]) / rays[:, :1])
        inside = (abs(across[:, 1] - self.y) < SCREEN_HALF_WIDTH_M) & (across[:, 2] < SCREEN_HEIGHT_M)
        return bool(inside.all())
