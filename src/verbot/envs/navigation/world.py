"""What is on the floor and what moves there: the robot, solid objects, painted lines, and how far each task has come.

The floor is a square. Its frame is the picture's: x to the right, y *down*, so that heading 0 looks right and grows clockwise.
What can be named is an *object* (solid, of a color and a shape) or a *line* (painted on the floor, with a dot at its start).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

Point = tuple[float, float]

SIDE_M = 3.2
RATE_HZ = 5.0
STEP_M, TURN_RAD = 0.1, math.radians(30.0)
ROBOT_RADIUS_M = 0.13
ACTIONS = ("forward", "back", "left", "right", "raise arm", "lower arm", "stop")
FORWARD, BACK, LEFT, RIGHT, RAISE, LOWER, STOP = range(len(ACTIONS))
# Steering by the compass: where each move goes in the picture, as a heading.
COMPASS_RAD = {FORWARD: -math.pi / 2, BACK: math.pi / 2, LEFT: math.pi, RIGHT: 0.0}

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (226, 42, 46),
    "green": (40, 170, 62),
    "blue": (52, 92, 246),
    "yellow": (250, 226, 36),
    "purple": (166, 52, 206),
    "orange": (255, 134, 18),
}
# Corners in meters about the object's center; a circle has none and a radius instead.
SHAPES: dict[str, tuple[Point, ...]] = {
    "circle": (),
    "square": ((-0.18, -0.18), (0.18, -0.18), (0.18, 0.18), (-0.18, 0.18)),
    "triangle": ((0.0, -0.26), (0.23, 0.14), (-0.23, 0.14)),
}
CIRCLE_RADIUS_M = 0.2
OBJECT_REACH_M = 0.27  # no corner is farther from its object's center

REACH_M = 0.6  # from an object's center: who stops so near has come to it
AROUND_M = 0.9  # a turn around an object counts no farther from its center
LINE_TOLERANCE_M = 0.15
LINE_SPACING_M = 0.05  # between the points that a line is made of
LINE_SHARE = 0.9  # of its points, in order: so much is the whole line


@dataclass(frozen=True)
class NavigationObject:
    """A solid post of one color and shape; `center_m` is (x, y)."""

    color: str
    shape: str
    center_m: Point

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    def distance_m(self, x_m: float, y_m: float) -> float:
        """From a point to the object's outline; negative inside."""
        dx, dy = x_m - self.center_m[0], y_m - self.center_m[1]
        corners = SHAPES[self.shape]
        if not corners:
            return math.hypot(dx, dy) - CIRCLE_RADIUS_M
        nearest, inside = math.inf, True
        for (ax, ay), (bx, by) in zip(corners, (*corners[1:], corners[0]), strict=True):
            ex, ey = bx - ax, by - ay
            along = min(max(((dx - ax) * ex + (dy - ay) * ey) / (ex * ex + ey * ey), 0.0), 1.0)
            nearest = min(nearest, math.hypot(dx - ax - along * ex, dy - ay - along * ey))
            inside = inside and ex * (dy - ay) - ey * (dx - ax) >= 0
        return -nearest if inside else nearest


@dataclass(frozen=True)
class Line:
    """A painted curve: points (x, y) from its start to its end, `LINE_SPACING_M` apart."""

    color: str
    points_m: tuple[Point, ...]

    @property
    def name(self) -> str:
        return f"{self.color} line"

    @property
    def needed(self) -> int:
        """How many points make the whole line."""
        return math.ceil(LINE_SHARE * len(self.points_m))


@dataclass(frozen=True)
class NavigationScene:
    """How an episode begins."""

    objects: tuple[NavigationObject, ...]
    lines: tuple[Line, ...]
    start_m: Point
    heading_rad: float
    arm_raised: bool

    @property
    def names(self) -> tuple[str, ...]:
        return (*(obj.name for obj in self.objects), *(line.name for line in self.lines))


@dataclass
class World:
    """The state of an episode.

    Args:
        compass: the four moves go up, down, left and right in the picture, and the robot looks where it goes; otherwise ``left``
            and ``right`` turn it on the spot, and ``forward`` and ``back`` are along its heading.
        bumped: whether the last move was blocked, by an object or by a wall.
        stopped_at: the object that the robot stopped at.
        turns_rad: name of an object to the angle gone around it, clockwise positive. It begins anew where the robot touches the
            object or is farther than `AROUND_M` from it.
        covered: name of a line to how many of its points were passed, from the start, in order, within `LINE_TOLERANCE_M`.
        path_m: everywhere that the robot was, one point a move.
    """

    scene: NavigationScene
    compass: bool = False
    x_m: float = 0.0
    y_m: float = 0.0
    heading_rad: float = 0.0
    arm_raised: bool = False
    bumped: bool = False
    stopped_at: str | None = None
    turns_rad: dict[str, float] = field(default_factory=dict)
    covered: dict[str, int] = field(default_factory=dict)
    path_m: list[Point] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.x_m, self.y_m), self.heading_rad = self.scene.start_m, self.scene.heading_rad
        self.arm_raised = self.scene.arm_raised
        self.turns_rad = {obj.name: 0.0 for obj in self.scene.objects}
        self.covered = {line.name: 0 for line in self.scene.lines}
        self.path_m = [self.scene.start_m]
        self._cover()

    def step(self, action: int) -> None:
        """One control step of one of `ACTIONS`. A move that would enter something solid does not happen; it is felt."""
        self.bumped = False
        if self.compass and action in COMPASS_RAD:
            self.heading_rad = COMPASS_RAD[action]
            self._move(STEP_M)
        elif action in (FORWARD, BACK):
            self._move(STEP_M if action == FORWARD else -STEP_M)
        elif action in (LEFT, RIGHT):
            turned = self.heading_rad + (TURN_RAD if action == RIGHT else -TURN_RAD)
            self.heading_rad = math.remainder(turned, math.tau)
        elif action in (RAISE, LOWER):
            self.arm_raised = action == RAISE
        elif action == STOP:
            self.stopped_at = self.within_reach()

    def within_reach(self) -> str | None:
        """The object whose center is nearest, if it is within `REACH_M`."""
        distance, name = min((self.distance_m(obj.center_m), obj.name) for obj in self.scene.objects)
        return name if distance <= REACH_M else None

    def distance_m(self, point: Point) -> float:
        return math.hypot(point[0] - self.x_m, point[1] - self.y_m)

    def is_free(self, x_m: float, y_m: float) -> bool:
        """Whether the robot could stand there."""
        return self._within_walls(x_m, y_m) and self._blocking(x_m, y_m) is None

    def _move(self, length_m: float) -> None:
        x = self.x_m + length_m * math.cos(self.heading_rad)
        y = self.y_m + length_m * math.sin(self.heading_rad)
        obj = self._blocking(x, y)
        if obj is not None or not self._within_walls(x, y):
            self.bumped = True
            if obj is not None:
                self.turns_rad[obj.name] = 0.0
            return
        for other in self.scene.objects:
            self._turn(other, x, y)
        self.x_m, self.y_m = x, y
        self.path_m.append((x, y))
        self._cover()

    def _turn(self, obj: NavigationObject, x_m: float, y_m: float) -> None:
        """Count the angle, seen from the object, of the move that ends in (x, y)."""
        cx, cy = obj.center_m
        ax, ay, bx, by = self.x_m - cx, self.y_m - cy, x_m - cx, y_m - cy
        if bx * bx + by * by > AROUND_M**2:
            self.turns_rad[obj.name] = 0.0
        else:
            self.turns_rad[obj.name] += math.atan2(ax * by - ay * bx, ax * bx + ay * by)

    def _cover(self) -> None:
        for line in self.scene.lines:
            count = self.covered[line.name]
            while count < len(line.points_m) and self.distance_m(line.points_m[count]) <= LINE_TOLERANCE_M:
                count += 1
            self.covered[line.name] = count

    def _blocking(self, x_m: float, y_m: float) -> NavigationObject | None:
        for obj in self.scene.objects:
            cx, cy = obj.center_m
            near = (x_m - cx) ** 2 + (y_m - cy) ** 2 < (OBJECT_REACH_M + ROBOT_RADIUS_M) ** 2
            if near and obj.distance_m(x_m, y_m) < ROBOT_RADIUS_M:
                return obj
        return None

    def _within_walls(self, x_m: float, y_m: float) -> bool:
        low, high = ROBOT_RADIUS_M, SIDE_M - ROBOT_RADIUS_M
        return low <= x_m <= high and low <= y_m <= high
