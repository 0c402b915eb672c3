"""The three tasks: when each is done, how far it has come, and what an expert does next."""

from __future__ import annotations

import math
from typing import Protocol

from verbot.contracts import Goal
from verbot.envs.navigation import motion
from verbot.envs.navigation.world import (
    LINE_SPACING_M,
    LOWER,
    RAISE,
    REACH_M,
    SIDE_M,
    STOP,
    Line,
    NavigationObject,
    NavigationScene,
    Point,
    World,
)

_ARM_SHARE, _NEAR_SHARE, _DONE_SHARE = 0.1, 0.2, 0.6  # of the potential, which stays below the reward of success
_FARTHEST_M = SIDE_M * math.sqrt(2)
ARM_M = 0.3  # as much of the way as that is an arm worth that must still move
_SURELY_M = 0.85 * REACH_M  # where the expert stops
_OFF_LINE_M = 0.4  # from a line's next point: the expert heads for that point itself


class NavigationTask(Protocol):
    """One verb with the object or line that it is about."""

    seconds: float  # until an episode is truncated

    def done(self, world: World) -> bool: ...

    def nearness(self, world: World) -> float:
        """0 to 1: how near the robot is to where it must be next."""
        ...

    def share(self, world: World) -> float:
        """0 to 1: how much of the task is done."""
        ...

    def error_m(self, world: World) -> float:
        """What is left of the way, m; 0 at the end."""
        ...

    def act(self, world: World) -> int:
        """The expert's action."""
        ...

    def points_m(self) -> tuple[Point, Point, Point]:
        """Where it begins, halfway, and where it ends."""
        ...


class Go:
    """Come within `REACH_M` of an object's center, and stop."""

    seconds = 24.0

    def __init__(self, obj: NavigationObject):
        self._object = obj

    def done(self, world: World) -> bool:
        return world.stopped_at == self._object.name

    def nearness(self, world: World) -> float:
        return _near(world.distance_m(self._object.center_m) - REACH_M)

    def share(self, world: World) -> float:
        return self.nearness(world)

    def error_m(self, world: World) -> float:
        return max(0.0, world.distance_m(self._object.center_m) - REACH_M)

    def act(self, world: World) -> int:
        if world.distance_m(self._object.center_m) <= _SURELY_M and world.within_reach() == self._object.name:
            return STOP
        return motion.toward(world, self._object.center_m, self._object.name)

    def points_m(self) -> tuple[Point, Point, Point]:
        return (self._object.center_m,) * 3


class Around:
    """A whole turn around an object, either way, never touching it and never farther than `AROUND_M` from its center."""

    seconds = 36.0

    def __init__(self, obj: NavigationObject):
        self._object = obj

    def done(self, world: World) -> bool:
        return abs(world.turns_rad[self._object.name]) >= math.tau

    def nearness(self, world: World) -> float:
        return _near(abs(world.distance_m(self._object.center_m) - motion.RING_M))

    def share(self, world: World) -> float:
        return min(abs(world.turns_rad[self._object.name]) / math.tau, 1.0)

    def error_m(self, world: World) -> float:
        if self.done(world):
            return 0.0
        left = motion.RING_M * math.tau * (1 - self.share(world))
        return left + max(0.0, world.distance_m(self._object.center_m) - motion.RING_M)

    def act(self, world: World) -> int:
        return motion.around(world, self._object)

    def points_m(self) -> tuple[Point, Point, Point]:
        return (self._object.center_m,) * 3


class Follow:
    """Along a line from the dot at its start, never skipping any of it, until `LINE_SHARE` of it is passed."""

    seconds = 36.0

    def __init__(self, line: Line):
        self._line = line

    def done(self, world: World) -> bool:
        return world.covered[self._line.name] >= self._line.needed

    def nearness(self, world: World) -> float:
        return _near(world.distance_m(self.next_m(world)))

    def share(self, world: World) -> float:
        return min(world.covered[self._line.name] / self._line.needed, 1.0)

    def error_m(self, world: World) -> float:
        if self.done(world):
            return 0.0
        return (self._line.needed - world.covered[self._line.name]) * LINE_SPACING_M + world.distance_m(self.next_m(world))

    def act(self, world: World) -> int:
        count, points = world.covered[self._line.name], self._line.points_m
        if count == 0 or world.distance_m(self.next_m(world)) > _OFF_LINE_M:
            return motion.toward(world, self.next_m(world))
        return motion.along(world, _direction_rad(world, points[min(count + 1, len(points) - 1)]))

    def points_m(self) -> tuple[Point, Point, Point]:
        points = self._line.points_m
        return points[0], points[len(points) // 2], points[-1]

    def next_m(self, world: World) -> Point:
        """The first of the line's points that was not passed."""
        return self._line.points_m[min(world.covered[self._line.name], len(self._line.points_m) - 1)]


def task_of(goal: Goal, scene: NavigationScene) -> NavigationTask:
    """What `goal` asks for in `scene`."""
    if goal["verb"] == "follow":
        return Follow(next(line for line in scene.lines if line.name == goal["object"]))
    obj = next(obj for obj in scene.objects if obj.name == goal["object"])
    return Go(obj) if goal["verb"] == "go" else Around(obj)


def arm_fits(goal: Goal, world: World) -> bool:
    """Whether the arm is as the sentence says; where it says nothing, either is right."""
    return goal["arm"] is None or (goal["arm"] == "raised") == world.arm_raised


def succeeded(goal: Goal, task: NavigationTask, world: World) -> bool:
    """Done, with the arm as the instruction says at that moment."""
    return task.done(world) and arm_fits(goal, world)


def error_m(goal: Goal, task: NavigationTask, world: World) -> float:
    """What is left of the way, m, and `ARM_M` more while the arm is not as the instruction says; 0 exactly at success."""
    return task.error_m(world) + (0.0 if arm_fits(goal, world) else ARM_M)


def potential(goal: Goal, task: NavigationTask, world: World) -> float:
    """Φ of the state, 0 to 0.9: how near, how much of the task is done, and whether the arm is right."""
    return _NEAR_SHARE * task.nearness(world) + _DONE_SHARE * task.share(world) + _ARM_SHARE * arm_fits(goal, world)


def act(goal: Goal, task: NavigationTask, world: World) -> int:
    """The expert's action: first the arm, then the way."""
    if not arm_fits(goal, world):
        return RAISE if goal["arm"] == "raised" else LOWER
    return task.act(world)


def advance(goal: Goal, task: NavigationTask, world: World, left: float) -> None:
    """Let the expert go on until no more than the share `left` of its way is before it; the task is never finished so."""
    way_m = task.error_m(world)
    while task.error_m(world) > left * way_m:
        world.step(act(goal, task, world))


def first_contact(world: World) -> str | None:
    """Where it stopped, or else an object that it went mostly around, or a line of which it followed a third."""
    if world.stopped_at is not None:
        return world.stopped_at
    for name, angle in world.turns_rad.items():
        if abs(angle) >= 0.75 * math.tau:
            return name
    for line in world.scene.lines:
        if world.covered[line.name] >= len(line.points_m) / 3:
            return line.name
    return None


def describe(world: World) -> str:
    """The state in words: of everything that can be named, without the target."""
    parts = [f"the robot's arm is {'raised' if world.arm_raised else 'lowered'}"]
    for obj in world.scene.objects:
        angle = math.degrees(abs(world.turns_rad[obj.name]))
        parts.append(
            f"the robot is {world.distance_m(obj.center_m):.2f} m from the middle of the {obj.name} and has gone "
            f"{angle:.0f} degrees around it"
        )
    for line in world.scene.lines:
        nearest = min(map(world.distance_m, line.points_m))
        share = 100 * world.covered[line.name] / len(line.points_m)
        parts.append(f"the robot is {nearest:.2f} m from the {line.name} and has followed {share:.0f} percent of it")
    if world.bumped:
        parts.append("the robot has just bumped into something")
    parts.append(f"the robot has stopped at {f'the {world.stopped_at}' if world.stopped_at else 'nothing'}")
    return "; ".join(parts)


def _near(distance_m: float) -> float:
    return 1.0 - min(max(distance_m, 0.0) / _FARTHEST_M, 1.0)


def _direction_rad(world: World, point: Point) -> float:
    return math.atan2(point[1] - world.y_m, point[0] - world.x_m)
