"""The top view. Row is y, column is x: what is at (x, y) m shows at ``picture[y · scale, x · scale]``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from verbot.envs.navigation.world import CIRCLE_RADIUS_M, COLORS, ROBOT_RADIUS_M, SHAPES, SIDE_M, NavigationScene, Point, World
from verbot.spec import FloatArray, UInt8Array

FLOOR, WALL, TRACK = (62, 64, 70), (24, 25, 28), (104, 106, 112)
BODY, NOSE, ARM = (214, 216, 220), (12, 12, 14), (64, 240, 240)
LINE_WIDTH_M, DOT_RADIUS_M, WALL_WIDTH_M = 0.1, 0.13, 0.05
NOSE_M, ARM_WIDTH_M = 0.2, 0.045  # from the robot's center; half the width of what sticks out
_FINER = 4  # the floor is drawn so much larger and then averaged
_BOX_M = 0.3  # half the side of the square that the robot is drawn into


class Painter:
    """Pictures (size, size, 3) of one scene. The floor is drawn once; a step copies it and draws the robot.

    The robot is a pale disc with a nose that shows its heading, black while the arm is lowered. A raised arm makes the nose
    and the middle bright cyan, which nothing else is. Its wheels leave a track, and what it has followed of a line is dark, so
    that a picture shows what was already done.
    """

    def __init__(self, scene: NavigationScene, size: int):
        self._size, self._scale = size, size / SIDE_M
        self._floor = _floor(scene, size)
        self._tracked, self._under = self._floor.copy(), np.zeros((size, size), bool)
        self._lines, self._followed = scene.lines, dict.fromkeys((line.name for line in scene.lines), 0)
        count = math.ceil(2 * _BOX_M * self._scale) + 2
        self._offsets = np.arange(count, dtype=np.float32)

    def track(self, point_m: Point) -> None:
        """Mark where the robot was. The floor shines through: a line stays visible under the track."""
        where = self._square(point_m)
        self._under[where] = True
        self._show(where)

    def follow(self, covered: Mapping[str, int]) -> None:
        """Darken so many points of each line, from its start."""
        for line in self._lines:
            dark = np.array(COLORS[line.color], np.uint8) // 3
            for point in line.points_m[self._followed[line.name] : covered[line.name]]:
                where = self._square(point)
                self._floor[where] = dark
                self._show(where)
            self._followed[line.name] = covered[line.name]

    def _square(self, point_m: Point) -> tuple[slice, slice]:
        """As wide as a line."""
        half = 0.5 * LINE_WIDTH_M * self._scale
        column, row = point_m[0] * self._scale - half, point_m[1] * self._scale - half
        width = max(1, round(2 * half))
        top, left = max(0, round(row)), max(0, round(column))
        return slice(top, top + width), slice(left, left + width)

    def _show(self, where: tuple[slice, slice]) -> None:
        # From the clean floor, so that standing still does not deepen the mark.
        floor, under = self._floor[where], self._under[where][..., None]
        self._tracked[where] = np.where(under, (floor.astype(np.uint16) + TRACK) // 2, floor)

    def picture(self, world: World) -> UInt8Array:
        image = self._tracked.copy()
        scale, count = self._scale, len(self._offsets)
        left, top = math.floor((world.x_m - _BOX_M) * scale), math.floor((world.y_m - _BOX_M) * scale)
        first_column, first_row = max(0, -left), max(0, -top)
        columns = self._offsets[first_column : count - max(0, left + count - self._size)]
        rows = self._offsets[first_row : count - max(0, top + count - self._size)]
        # Pixel centers in meters from the robot, then along and across its heading.
        dx = (columns + (left + 0.5)) / scale - world.x_m
        dy = ((rows + (top + 0.5)) / scale - world.y_m)[:, None]
        cos, sin = math.cos(world.heading_rad), math.sin(world.heading_rad)
        along, across = dx * cos + dy * sin, dy * cos - dx * sin
        radius = np.hypot(dx, dy)
        stick = np.maximum(np.abs(across) - ARM_WIDTH_M, np.maximum(along - NOSE_M, -along))
        box = image[top + first_row : top + first_row + len(rows), left + first_column : left + first_column + len(columns)]
        paint = box.astype(np.float32)
        sign = ARM if world.arm_raised else NOSE
        for outside_m, color in ((radius - ROBOT_RADIUS_M, BODY), (stick, sign)):
            _blend(paint, outside_m, color, scale)
        if world.arm_raised:
            _blend(paint, radius - 0.5 * ROBOT_RADIUS_M, ARM, scale)
        box[:] = np.rint(paint)
        return image


def _blend(paint: FloatArray, outside_m: FloatArray, color: tuple[int, int, int], scale: float) -> None:
    """Paint `color` where the distance to a shape's outline (h, w) is negative, anti-aliased over one pixel."""
    share = np.clip(0.5 - outside_m * scale, 0.0, 1.0)[..., None]
    paint += share * (np.array(color, np.float32) - paint)


def _floor(scene: NavigationScene, size: int) -> UInt8Array:
    """Walls, lines and objects (size, size, 3)."""
    scale = size * _FINER / SIDE_M
    image = Image.new("RGB", (size * _FINER, size * _FINER), FLOOR)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, image.width - 1, image.height - 1), outline=WALL, width=round(WALL_WIDTH_M * scale))
    for line in scene.lines:
        color, points = COLORS[line.color], [(x * scale, y * scale) for x, y in line.points_m]
        draw.line(points, color, round(LINE_WIDTH_M * scale), "curve")
        _disc(draw, points[0], DOT_RADIUS_M * scale, color)
        _disc(draw, points[0], 0.45 * DOT_RADIUS_M * scale, FLOOR)
    for obj in scene.objects:
        (x, y), color = obj.center_m, COLORS[obj.color]
        corners = [((x + dx) * scale, (y + dy) * scale) for dx, dy in SHAPES[obj.shape]]
        if corners:
            draw.polygon(corners, color)
        else:
            _disc(draw, (x * scale, y * scale), CIRCLE_RADIUS_M * scale, color)
    return np.asarray(image.reduce(_FINER)).copy()


def _disc(draw: ImageDraw.ImageDraw, center: tuple[float, float], radius: float, color: Any) -> None:
    (x, y) = center
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), color)
