"""How an expert drives: to a point past what stands in the way, and around an object. Functions of the present state alone."""

from __future__ import annotations

import math

from verbot.envs.navigation.world import (
    COMPASS_RAD,
    FORWARD,
    LEFT,
    OBJECT_REACH_M,
    RIGHT,
    ROBOT_RADIUS_M,
    STEP_M,
    TURN_RAD,
    NavigationObject,
    Point,
    World,
)

CLEARANCE_M = OBJECT_REACH_M + ROBOT_RADIUS_M + 0.03  # of the robot's center from an object's
RING_M, RING_BAND_M = 0.53, 0.15  # the radius of a turn, and how far from it turning begins
_PULL, _MOST_RAD = 3.0, 0.8  # back to the ring: rad per m, and at most
_SURE_RAD = 0.5  # so far round, and it goes on the same way
_HALF_TURNS = 6


def toward(world: World, target_m: Point, passing: str | None = None) -> int:
    """The action that brings the robot nearer to a point, around all objects but the one called `passing`."""
    return along(world, _bearing_rad(world, target_m, passing))


def around(world: World, obj: NavigationObject) -> int:
    """The action that goes on with a turn around `obj`, or goes there first."""
    dx, dy = world.x_m - obj.center_m[0], world.y_m - obj.center_m[1]
    distance = math.hypot(dx, dy)
    if distance > RING_M + RING_BAND_M:
        return toward(world, obj.center_m, obj.name)
    turned = world.turns_rad[obj.name]
    # Whichever way the robot already goes; a person who comes up to a post does the same.
    clockwise = turned > 0 if abs(turned) > _SURE_RAD else dx * math.sin(world.heading_rad) >= dy * math.cos(world.heading_rad)
    inward = min(max(_PULL * (distance - RING_M), -_MOST_RAD), _MOST_RAD)
    return along(world, math.atan2(dy, dx) + (1 if clockwise else -1) * (math.pi / 2 + inward))


def along(world: World, bearing_rad: float) -> int:
    """A move or a turn toward that one of the headings which is nearest to `bearing_rad` and not blocked."""
    if world.compass:
        return min(COMPASS_RAD, key=lambda action: _cost(world, COMPASS_RAD[action], bearing_rad))
    best, chosen = math.inf, 0
    for turns in range(1 - _HALF_TURNS, _HALF_TURNS + 1):
        heading = world.heading_rad + turns * TURN_RAD
        if (cost := _cost(world, heading, bearing_rad)) < best:
            best, chosen = cost, turns
    return FORWARD if chosen == 0 else RIGHT if chosen > 0 else LEFT


def _cost(world: World, heading_rad: float, bearing_rad: float) -> float:
    """How far a heading is from the wanted one, rad; more than any angle where it is blocked."""
    ahead = (world.x_m + STEP_M * math.cos(heading_rad), world.y_m + STEP_M * math.sin(heading_rad))
    return abs(math.remainder(bearing_rad - heading_rad, math.tau)) + (0.0 if world.is_free(*ahead) else math.tau)


def _bearing_rad(world: World, target_m: Point, passing: str | None) -> float:
    """Straight to the target, or along the tangent of what stands first in the way."""
    tx, ty = target_m[0] - world.x_m, target_m[1] - world.y_m
    length = math.hypot(tx, ty)
    bearing, first = math.atan2(ty, tx), math.inf
    for obj in world.scene.objects:
        if obj.name == passing:
            continue
        cx, cy = obj.center_m[0] - world.x_m, obj.center_m[1] - world.y_m
        ahead = (cx * tx + cy * ty) / max(length, 1e-9)
        aside = (cx * ty - cy * tx) / max(length, 1e-9)  # positive where the target lies clockwise of the object
        if not 0 < ahead < min(length, first) or abs(aside) >= CLEARANCE_M:
            continue
        distance, side = math.hypot(cx, cy), 1.0 if aside >= 0 else -1.0
        # Inside the clearance: along the object and a little away from it.
        off = math.asin(CLEARANCE_M / distance) if distance > CLEARANCE_M else math.pi / 2 + 0.4
        first, bearing = ahead, math.atan2(cy, cx) + side * off
    return bearing
