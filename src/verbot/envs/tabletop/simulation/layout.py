"""What stands where when an episode begins: plain data, sampled without overlap. Needs no simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from verbot.envs.tabletop.language import vocabulary
from verbot.envs.tabletop.simulation.views import Screen
from verbot.errors import SimulationError
from verbot.spec import Float64Array

# Sizes in m, as MuJoCo counts them: half sides of the cube; radius and half height of the cylinder; radius of the ball.
SIZES: dict[str, tuple[float, ...]] = {"cube": (0.024, 0.024, 0.024), "cylinder": (0.023, 0.025), "ball": (0.026,)}
BOX_INNER_M, BOX_WALL_M, BOX_HEIGHT_M, BOX_FLOOR_M = 0.055, 0.004, 0.030, 0.004
PLATE_RADIUS_M, PLATE_HEIGHT_M = 0.058, 0.008

# The radius on the table that an object needs to itself.
RADII = {"cube": 0.034, "cylinder": 0.024, "ball": 0.027, "box": 0.072, "plate": 0.060, "clutter": 0.022}
WORKSPACE_M = ((0.40, 0.64), (-0.22, 0.22))  # where objects start
REACH_M = ((0.35, 0.71), (-0.29, 0.29))  # where a push may end: still in the front camera's picture
CLEARANCE_M = 0.038  # room for a finger between two objects
_SCREEN_REACH_M = 0.06  # how far a screen's middle may be from the front camera's axis


@dataclass(frozen=True)
class SceneObject:
    """A movable object, a receptacle (fixed to the table) or a piece of clutter. Its id is unique in a scene: "color shape", and
    for all but the first of several objects alike their `number`, from 2 on."""

    color: str
    shape: str
    x: float
    y: float
    yaw_rad: float = 0.0
    number: int = field(default=1, repr=False)

    @property
    def id(self) -> str:
        return self.name if self.number == 1 else f"{self.name} {self.number}"

    @property
    def name(self) -> str:
        return f"{self.color} {self.shape}"

    @property
    def radius_m(self) -> float:
        return RADII[self.shape]

    @property
    def rest_height_m(self) -> float:
        """The height of a movable's center while it rests on the table."""
        size = SIZES[self.shape]
        return size[1] if self.shape == "cylinder" else size[-1]

    @property
    def middle_m(self) -> Float64Array:
        """Its center (3,) while it rests on the table; a receptacle's is on the table."""
        return np.array((self.x, self.y, self.rest_height_m if self.shape in SIZES else 0.0))


@dataclass(frozen=True)
class Fixture:
    """A mechanism on the table, e.g. a drawer: where it stands, how far it is open, and the half sides that it needs."""

    name: str
    x: float
    y: float
    half_x: float
    half_y: float
    opening_01: float = 0.0


@dataclass(frozen=True)
class Layout:
    """All objects of a scene. `clutter` cannot be named; `fixtures` and a `screen` are there in suites that ask for them."""

    movables: tuple[SceneObject, ...]
    receptacles: tuple[SceneObject, ...]
    clutter: tuple[SceneObject, ...] = ()
    fixtures: Mapping[str, Fixture] = field(default_factory=dict)
    screen: Screen | None = None

    def __iter__(self) -> Iterator[SceneObject]:
        return iter(self.movables + self.receptacles)

    def object(self, name: str) -> SceneObject:
        """The movable or receptacle with this id."""
        return next(obj for obj in self if obj.id == name)

    def hidden(self, name: str) -> bool:
        """Whether the screen hides all of a movable from the front camera."""
        obj = self.object(name)
        return self.screen is not None and self.screen.hides(obj.x, obj.y, obj.radius_m, 2 * obj.rest_height_m)

    def obstacles(self) -> Iterator[tuple[float, float, float]]:
        """Circles (x, y, radius) around everything that stands on the table."""
        for obj in (*self, *self.clutter):
            yield obj.x, obj.y, obj.radius_m
        for fixture in self.fixtures.values():
            yield from _circles(fixture)


@dataclass(frozen=True)
class SceneConstraints:
    """What a suite and its randomization ask of a scene.

    Args:
        movables, receptacles: least and most of each.
        widen_m: how far the workspace grows on every side.
        yaw_rad: cubes are turned by up to this angle.
        repeat_color: probability that two movables share a color.
        fixtures: names of `FIXTURES`.
        alike: all movables have one shape.
        screen: one stands before the front camera, and at least two movables are behind it.
        twins: least and most movables that are alike in color and shape, the first ones.
    """

    movables: tuple[int, int] = (2, 3)
    receptacles: tuple[int, int] = (1, 2)
    widen_m: float = 0.0
    yaw_rad: float = 0.35
    repeat_color: float = 0.0
    fixtures: tuple[str, ...] = ()
    alike: bool = False
    screen: bool = False
    twins: tuple[int, int] = (1, 1)


@dataclass(frozen=True)
class SceneConfig:
    """What is compiled in: slots for movables and receptacles, fixtures (``"drawer"``, ``"button"``), a screen, cameras beside
    front and wrist, and where the arm stands (see `verbot.envs.tabletop.simulation.robot_mount`)."""

    movables: int = 3
    receptacles: int = 2
    fixtures: tuple[str, ...] = ()
    screen: bool = False
    cameras: tuple[str, ...] = ()
    mount: str = "back"


# The drawer slides out along +x, so its circle of need covers the open drawer too.
FIXTURES = {
    "drawer": Fixture("drawer", 0.50, 0.205, 0.150, 0.088),
    "button": Fixture("button", 0.44, -0.215, 0.035, 0.035),
}


def sample(constraints: SceneConstraints, rng: np.random.Generator) -> Layout:
    """A layout without overlaps. Raises `SimulationError` if the constraints leave no room."""
    for _ in range(200):
        layout = _place(_fixtures(constraints, rng), *_objects(constraints, rng), constraints, rng)
        if layout is not None and constraints.screen:
            layout = _behind_a_screen(layout, rng)
        if layout is not None:
            return layout
    raise SimulationError(f"no scene without overlaps was found in 200 tries for {constraints}")


def _fixtures(constraints: SceneConstraints, rng: np.random.Generator) -> dict[str, Fixture]:
    placed = {}
    for name in constraints.fixtures:
        fixture, shift = FIXTURES[name], rng.uniform(-0.008, 0.008, 2)
        opening = float(rng.choice((0.0, 1.0))) if name == "drawer" else 0.0
        placed[name] = dataclasses.replace(
            fixture, x=fixture.x + float(shift[0]), y=fixture.y + float(shift[1]), opening_01=opening
        )
    return placed


def _objects(constraints: SceneConstraints, rng: np.random.Generator) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(color, shape) of the movables and of the receptacles; colors differ, so that a 64×64 picture tells them apart, but for
    those of twins."""
    count = int(rng.integers(constraints.movables[0], constraints.movables[1] + 1))
    extra = int(rng.integers(constraints.receptacles[0], constraints.receptacles[1] + 1))
    colors = [str(c) for c in rng.permutation(vocabulary.OBJECT_COLORS)[: count + extra]]
    shapes = [str(s) for s in rng.choice(vocabulary.SHAPES, count)]
    shapes = shapes[:1] * count if constraints.alike else shapes
    kinds = [str(s) for s in rng.choice(tuple(vocabulary.RECEPTACLES), extra)]
    movables = list(zip(colors[:count], shapes, strict=True))
    if rng.random() < constraints.repeat_color:
        others = [shape for shape in vocabulary.SHAPES if shape != shapes[0]]
        movables[1] = (colors[0], str(rng.choice(others)))
    if constraints.twins[1] > 1:
        twins = int(rng.integers(constraints.twins[0], constraints.twins[1] + 1))
        movables[:twins] = movables[:1] * twins
    return movables, list(zip(colors[count:], kinds, strict=True))


def _place(
    fixtures: dict[str, Fixture],
    movables: list[tuple[str, str]],
    receptacles: list[tuple[str, str]],
    constraints: SceneConstraints,
    rng: np.random.Generator,
) -> Layout | None:
    low = np.array([WORKSPACE_M[0][0], WORKSPACE_M[1][0]]) - constraints.widen_m
    high = np.array([WORKSPACE_M[0][1], WORKSPACE_M[1][1]]) + constraints.widen_m
    taken = [circle for fixture in fixtures.values() for circle in _circles(fixture)]
    objects: list[SceneObject] = []
    # The largest first: they are the hardest to place.
    for color, shape in (*receptacles, *movables):
        margin = np.array((0.0, 0.03)) if shape in vocabulary.RECEPTACLES else np.zeros(2)
        for _ in range(30):
            x, y = rng.uniform(low + margin, high - margin)
            if all((x - a) ** 2 + (y - b) ** 2 > (r + RADII[shape] + CLEARANCE_M) ** 2 for a, b, r in taken):
                break
        else:
            return None
        yaw = rng.uniform(-constraints.yaw_rad, constraints.yaw_rad) if shape == "cube" else 0.0
        number = 1 + sum((obj.color, obj.shape) == (color, shape) for obj in objects)
        objects.append(SceneObject(color, shape, float(x), float(y), float(yaw), number))
        taken.append((float(x), float(y), RADII[shape]))
    count = len(receptacles)
    return Layout(tuple(objects[count:]), tuple(objects[:count]), (), fixtures)


def _behind_a_screen(layout: Layout, rng: np.random.Generator) -> Layout | None:
    """With a screen somewhere; None if it hides fewer than two movables."""
    layout = dataclasses.replace(layout, screen=Screen(float(rng.uniform(-_SCREEN_REACH_M, _SCREEN_REACH_M))))
    return layout if sum(layout.hidden(obj.id) for obj in layout.movables) > 1 else None


def scatter(layout: Layout, count: int, keeps: Callable[[Layout], bool], rng: np.random.Generator) -> Layout:
    """`layout` with up to `count` pieces of clutter, placed where they overlap nothing and `keeps` stays true."""
    low, high = np.array(REACH_M).T
    for _ in range(40 * count):
        x, y = rng.uniform(low, high)
        piece = SceneObject("gray", "clutter", float(x), float(y))
        if any((x - a) ** 2 + (y - b) ** 2 < (r + piece.radius_m + CLEARANCE_M) ** 2 for a, b, r in layout.obstacles()):
            continue
        fuller = dataclasses.replace(layout, clutter=(*layout.clutter, piece))
        if keeps(fuller):
            layout = fuller
        if len(layout.clutter) == count:
            break
    return layout


def _circles(fixture: Fixture) -> Iterator[tuple[float, float, float]]:
    """A rectangle as a row of circles along its longer side."""
    radius, length = min(fixture.half_x, fixture.half_y), max(fixture.half_x, fixture.half_y)
    along = (1.0, 0.0) if fixture.half_x >= fixture.half_y else (0.0, 1.0)
    # A quarter of the radius apart, their outline is straight within 1 %.
    for shift in np.linspace(radius - length, length - radius, 1 + int(np.ceil(8 * (length - radius) / radius))):
        yield fixture.x + shift * along[0], fixture.y + shift * along[1], radius
