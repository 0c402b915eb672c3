"""Scenes: three or four objects and two lines, with room for the robot to pass between them and around each."""

from __future__ import annotations

import math

import numpy as np

from verbot.envs.navigation.world import COLORS, LINE_SPACING_M, SHAPES, SIDE_M, Line, NavigationObject, NavigationScene, Point
from verbot.errors import SimulationError
from verbot.spec import FloatingArray

OBJECTS = (3, 4)  # least and most
LINES = 2
LOOK_ALIKE = 0.6  # share of the further objects that share their color or their shape with the first
OBJECT_WALL_M, OBJECT_APART_M = 0.66, 0.96  # a turn around an object needs so much
LINE_WALL_M, LINE_OBJECT_M, LINE_APART_M = 0.22, 0.5, 0.3
LINE_LENGTH_M = (1.0, 2.0)
START_WALL_M, START_OBJECT_M = 0.25, 0.65
_TRIES, _CANDIDATES = 400, 48


def sample(rng: np.random.Generator) -> NavigationScene:
    """A scene; all of it is a function of `rng`. Raises `SimulationError` if nothing fits, which does not happen."""
    for _ in range(_TRIES):
        centers = _centers(int(rng.integers(OBJECTS[0], OBJECTS[1] + 1)), rng)
        if centers is None:
            continue
        curves: list[FloatingArray] = []
        while len(curves) < LINES and (curve := _curve(centers, curves, rng)) is not None:
            curves.append(curve)
        start = _start(centers, rng)
        if len(curves) < LINES or start is None:
            continue
        colors = [str(color) for color in rng.permutation(list(COLORS))[:LINES]]
        lines = tuple(Line(color, _points(curve)) for color, curve in zip(colors, curves, strict=True))
        names = _names(len(centers), rng)
        objects = tuple(NavigationObject(*name, _point(center)) for name, center in zip(names, centers, strict=True))
        return NavigationScene(objects, lines, start, float(rng.uniform(-math.pi, math.pi)), bool(rng.random() < 0.5))
    raise SimulationError(f"no navigation scene in {_TRIES} tries")


def _names(count: int, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Different (color, shape) pairs, many of which differ from the first in one word only."""
    colors, shapes = list(COLORS), list(SHAPES)
    names: list[tuple[str, str]] = []
    while len(names) < count:
        color, shape = colors[int(rng.integers(len(colors)))], shapes[int(rng.integers(len(shapes)))]
        if names and rng.random() < LOOK_ALIKE:
            color, shape = (names[0][0], shape) if rng.random() < 0.5 else (color, names[0][1])
        if (color, shape) not in names:
            names.append((color, shape))
    order = rng.permutation(count)
    return [names[i] for i in order]


def _centers(count: int, rng: np.random.Generator) -> FloatingArray | None:
    found: list[FloatingArray] = []
    for _ in range(_CANDIDATES):
        point = rng.uniform(OBJECT_WALL_M, SIDE_M - OBJECT_WALL_M, 2)
        if all(np.linalg.norm(point - other) >= OBJECT_APART_M for other in found):
            found.append(point)
            if len(found) == count:
                return np.array(found)
    return None


def _curve(centers: FloatingArray, others: list[FloatingArray], rng: np.random.Generator) -> FloatingArray | None:
    """Points (n, 2) of a bent line, `LINE_SPACING_M` apart, away from objects and other lines."""
    control = rng.uniform(LINE_WALL_M, SIDE_M - LINE_WALL_M, (_CANDIDATES, 3, 2))
    control[:, 1] = control[:, [0, 2]].mean(1) + rng.uniform(-0.6, 0.6, (_CANDIDATES, 2))  # no sharp bends
    t = np.linspace(0, 1, 41)[:, None]
    weights = np.stack([(1 - t) ** 2, 2 * t * (1 - t), t**2], 1)[..., 0]  # (41, 3)
    curves = np.einsum("tk,ckd->ctd", weights, control)
    lengths = np.linalg.norm(np.diff(curves, axis=1), axis=-1).sum(1)
    fits = (lengths >= LINE_LENGTH_M[0]) & (lengths <= LINE_LENGTH_M[1])
    fits &= ((curves >= LINE_WALL_M) & (curves <= SIDE_M - LINE_WALL_M)).all((1, 2))
    for points, least in [(centers, LINE_OBJECT_M), *((other, LINE_APART_M) for other in others)]:
        apart = np.linalg.norm(curves[:, :, None] - points, axis=-1)
        fits &= apart.min((1, 2)) >= least
    chosen = np.flatnonzero(fits)
    if not len(chosen):
        return None
    curve = curves[chosen[0]]
    along = np.concatenate([[0.0], np.linalg.norm(np.diff(curve, axis=0), axis=1).cumsum()])
    places = np.arange(0.0, along[-1], LINE_SPACING_M)
    return np.stack([np.interp(places, along, curve[:, axis]) for axis in (0, 1)], 1)


def _start(centers: FloatingArray, rng: np.random.Generator) -> Point | None:
    candidates = rng.uniform(START_WALL_M, SIDE_M - START_WALL_M, (_CANDIDATES, 2))
    apart = np.linalg.norm(candidates[:, None] - centers, axis=-1).min(1)
    free = np.flatnonzero(apart >= START_OBJECT_M)
    return _point(candidates[free[0]]) if len(free) else None


def _points(curve: FloatingArray) -> tuple[Point, ...]:
    return tuple(_point(point) for point in curve)


def _point(values: FloatingArray) -> Point:
    return float(values[0]), float(values[1])
