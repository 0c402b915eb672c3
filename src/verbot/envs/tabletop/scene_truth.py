"""The truth of the present scene, from the simulator's state: where objects are, what is held, what lies where, what is next."""

from __future__ import annotations

import numpy as np

from verbot.contracts import ObjectTruth, SceneTruth
from verbot.envs.tabletop.episodes import TabletopEpisode
from verbot.envs.tabletop.expert.subtasks import subtasks
from verbot.envs.tabletop.language import grammar
from verbot.envs.tabletop.language.vocabulary import DIRECTIONS
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.simulation.robot_mount import RobotMount
from verbot.envs.tabletop.tasks.put import rests_in
from verbot.spec import Float64Array

_AROUND = 0.3  # the least opening of fingers that are closed around an object: shut ones push it
_STACKED_M = 0.025  # across, and above its place, of an object that stands on another


def scene_truth(physics: Physics, episode: TabletopEpisode, mount: RobotMount, covered: bool) -> SceneTruth:
    """Of the present state. Points are in the base frame of `mount`; clutter has no name, fixtures have no color."""

    def point(place: Float64Array) -> tuple[float, float, float]:
        x, y, z = mount.point(np.asarray(place, np.float64)).tolist()
        return (x, y, z)

    def way(direction: str) -> tuple[float, float, float]:
        x, y, z = (np.array(DIRECTIONS[direction]) @ mount.rotation).tolist()
        return (x, y, z)

    layout, held = physics.layout, _held(physics)
    objects = [
        ObjectTruth(obj.id, obj.name, point(physics.position(obj.id)), None if obj.id == held else _place_of(physics, obj.id))
        for obj in layout.movables
    ]
    objects += [ObjectTruth(obj.id, obj.name, point(physics.position(obj.id))) for obj in layout.receptacles]
    objects += [ObjectTruth(name, name, point(np.array((f.x, f.y, 0.0)))) for name, f in layout.fixtures.items()]
    objects += [ObjectTruth(f"clutter {i}", "", point(obj_place)) for i, obj_place in enumerate(_clutter(physics))]
    plan, present = subtasks(physics, episode.task, episode.goal)
    return SceneTruth(
        language="tabletop", right=way("right"), near=way("forward"), tool_m=point(physics.tool_position), held=held,
        objects=tuple(objects), covered=covered, task=grammar.canonical(episode.goal), plan=plan, subtask=present,
    )  # fmt: skip


def _held(physics: Physics) -> str | None:
    if physics.opening < _AROUND:
        return None
    return next((obj.id for obj in physics.layout.movables if physics.grasped(obj.id)), None)


def _place_of(physics: Physics, name: str) -> str | None:
    """The receptacle that a movable rests in, or the movable that it stands on."""
    own = physics.position(name)
    for place in physics.layout.receptacles:
        if rests_in(physics, name, place.id):
            return place.id
    for other in physics.layout.movables:
        if other.id != name and physics.touches(name, other.id) and not physics.touches(name, "table"):
            x, y, z = own - physics.position(other.id)
            if np.hypot(x, y) < _STACKED_M and z > _STACKED_M:
                return other.id
    return None


def _clutter(physics: Physics) -> list[Float64Array]:
    return [np.array((obj.x, obj.y, 0.0)) for obj in physics.layout.clutter]
