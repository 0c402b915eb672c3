"""What singles out an object among others like it: where it stands to other objects. Every description fits exactly one object.

Left, right, front and back are those of a person who looks through the front camera, as everywhere on the tabletop. Rays of sight
are not parallel, so what is left on the table may be right in the picture: left and right must hold in both. A relation is only
offered where it holds clearly and where, for each of the objects like it, it clearly does not.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from verbot.contracts import Goal
from verbot.envs.tabletop.language.templates_relations import SEEN
from verbot.envs.tabletop.language.vocabulary import DIRECTIONS
from verbot.envs.tabletop.simulation.layout import Layout, SceneObject
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.simulation.views import VIEWS
from verbot.envs.tabletop.tasks import Grounding, TabletopTask
from verbot.spec import Float64Array

CLEARLY_M = 0.05  # by so much an object is more to a side, nearer or farther than the objects like it
AGAINST_M = 0.015  # by so much the objects like it are on the other side
ASIDE_M, OUTSIDE_M = 0.035, 0.09  # from the line between two objects: of what is between them, of what is not
APART_M = 0.16  # between two objects, for anything to be between them
SIDES = {"left of": "left", "right of": "right", "in front of": "forward", "behind": "backward"}
ENDS = {"leftmost": "left", "rightmost": "right", "frontmost": "forward", "rearmost": "backward"}
RELATIONS = tuple(SEEN)
Truth = npt.NDArray[np.bool_]
# The anchor stands where the gripper would go down to push.
_NO_ROOM = (("forward", "in front of"), ("backward", "behind"), ("left", "between"), ("right", "between"))


def descriptions(layout: Layout, relation: str | None = None) -> list[Goal]:
    """All that singles out a movable by a relation, or by this one: ``{"object", "relation", "noun"}``, and ``"anchor"`` and
    ``"other"`` where the relation is to objects, which are unique by color and shape."""
    names = Counter(obj.name for obj in layout)
    anchors = [obj for obj in layout if names[obj.name] == 1]
    found: list[Goal] = []
    for noun in dict.fromkeys(noun for obj in layout.movables for noun in (obj.name, obj.shape)):
        alike = [obj for obj in layout.movables if noun in (obj.name, obj.shape)]
        if len(alike) > 1:
            apart = [obj for obj in anchors if obj not in alike]
            for name in RELATIONS if relation is None else (relation,):
                found += [{**goal, "relation": name, "noun": noun} for goal in _fitting(name, alike, apart)]
    return found


def _fitting(relation: str, alike: Sequence[SceneObject], anchors: Sequence[SceneObject]) -> Iterator[Goal]:
    """The only one of `alike` that stands in `relation`, for every anchor, or pair of them, to which there is one."""
    places = np.array([(obj.x, obj.y) for obj in alike])
    if relation in ENDS:
        chosen = _first(_along(places, np.zeros(2), ENDS[relation]))
        yield from () if chosen is None else ({"object": alike[chosen].id},)
    elif relation == "between":
        for one, two in itertools.combinations(anchors, 2):
            chosen = _only(*_between(places, np.array((one.x, one.y)), np.array((two.x, two.y))))
            yield from () if chosen is None else ({"object": alike[chosen].id, "anchor": one.id, "other": two.id},)
    else:
        for anchor in anchors:
            chosen = _beside(places, np.array((anchor.x, anchor.y)), relation)
            yield from () if chosen is None else ({"object": alike[chosen].id, "anchor": anchor.id},)


def _beside(places: Float64Array, anchor: Float64Array, relation: str) -> int | None:
    offsets = places - anchor
    distances = np.linalg.norm(offsets, axis=1)
    if relation == "closest to":
        return _first(-distances[None])
    if relation == "farthest from":
        return _first(distances[None])
    along = _along(places, anchor, SIDES[relation])
    straight = np.array(DIRECTIONS[SIDES[relation]][:2])
    within = offsets @ straight >= distances * np.cos(np.pi / 4)
    return _only(np.all(along > CLEARLY_M, axis=0) & within, np.all(along < -AGAINST_M, axis=0))


def _along(places: Float64Array, origin: Float64Array, direction: str) -> Float64Array:
    """How far places (n, 2) are from `origin` that way, m: (1, n), and to the left and right also in the picture (2, n)."""
    way = np.array(DIRECTIONS[direction][:2])
    seen = [(places - origin) @ way]
    if way[1]:
        seen.append((_in_picture(places) - _in_picture(origin)) * way[1])
    return np.array(seen)


def _in_picture(places: Float64Array) -> Float64Array:
    """How far to the right places (…, 2) on the table are in the front camera's picture, as m in the distance it looks at."""
    view = VIEWS["front"]
    eye, axis = np.array(view.position_m), np.array(view.target_m) - np.array(view.position_m)
    reach = np.linalg.norm(axis)
    depth = ((places[..., 0] - eye[0]) * axis[0] - eye[2] * axis[2]) / reach
    return np.asarray((places[..., 1] - eye[1]) * reach / depth)


def _between(places: Float64Array, one: Float64Array, two: Float64Array) -> tuple[Truth, Truth]:
    """Which of the places (n, 2) are between two objects, and which clearly are not."""
    line = two - one
    length = float(np.linalg.norm(line))
    part = (places - one) @ line / length**2
    aside = np.abs((places - one) @ np.array((-line[1], line[0]))) / length
    inside = (part > 0.25) & (part < 0.75) & (aside < ASIDE_M) & (length > APART_M)
    return inside, (part < 0) | (part > 1) | (aside > OUTSIDE_M)


def _only(fits: Truth, fails: Truth) -> int | None:
    """The one that fits where all others clearly fail."""
    return int(np.argmax(fits)) if fits.sum() == 1 and fails.sum() == len(fits) - 1 else None


def _first(scores: Float64Array) -> int | None:
    """The one that is clearly ahead of all others in every row of (m, n)."""
    best = int(np.argmax(scores[0]))
    return best if (scores[:, best, None] - np.delete(scores, best, 1) > CLEARLY_M).all() else None


class Related:
    """A task whose goals single out what is to be handled by a relation; all else is the task's own."""

    def __init__(self, task: TabletopTask):
        self._task = task
        self.hold_s, self.max_seconds, self.is_compositional = task.hold_s, task.max_seconds, task.is_compositional
        self.variants = tuple(
            {**variant, "relation": name}
            for variant in task.variants
            for name in RELATIONS
            if (variant.get("direction"), name) not in _NO_ROOM
        )

    def goals(self, layout: Layout) -> list[Goal]:
        """A receptacle does not serve as an anchor for what is to be put there: "the cube left of the box in the box"."""
        said = descriptions(layout)
        return [
            {**goal, **words}
            for goal in self._task.goals(layout)
            for words in said
            if words["object"] == goal["object"]
            and goal.get("receptacle") not in (words.get("anchor", ""), words.get("other", ""))
        ]

    def target_object(self, goal: Goal) -> str | None:
        return self._task.target_object(goal)

    def grounding(self, layout: Layout, goal: Goal) -> Grounding:
        """As the task's, with the anchor for its reference: where it puts objects, its receptacle's point tells too."""
        own = self._task.grounding(layout, goal)
        if "anchor" not in goal:
            return own
        return Grounding(own.target_base_m, own.receptacle_base_m, layout.object(goal["anchor"]).middle_m)

    def satisfied(self, physics: Physics, goal: Goal) -> bool:
        return self._task.satisfied(physics, goal)

    def error_m(self, physics: Physics, goal: Goal) -> float:
        return self._task.error_m(physics, goal)

    def act(self, physics: Physics, goal: Goal) -> Float64Array:
        return self._task.act(physics, goal)
