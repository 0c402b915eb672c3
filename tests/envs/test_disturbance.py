"""A person moves an object of the tabletop while an episode runs: `verbot.contracts.Disturbable`."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.console.plants import SimulatedPlant
from verbot.contracts import Disturbable
from verbot.envs import make_env
from verbot.envs.tabletop.env import STILL
from verbot.envs.tabletop.tasks.put import Put
from verbot.errors import SimulationError

CUBE, CYLINDER = "yellow cube", "blue cylinder"  # of test scene 0


@pytest.fixture(scope="module", params=["tabletop-starter", "tabletop-other-robot"])
def plant(request):
    env = make_env(request.param, render_cameras=False)
    assert isinstance(env, Disturbable)
    plant = SimulatedPlant(env, {"index": 0})
    yield plant
    plant.close()


def test_a_moved_object_rests_where_it_was_put(plant):
    plant.begin(None)
    env = plant.env
    x, y, z = env.object_positions()[CUBE]
    others = env.object_positions()[CYLINDER]
    env.move_object(CUBE, x - 0.04, y)
    for _ in range(5):
        assert plant.act(STILL) is None
    assert np.allclose(env.object_positions()[CUBE], (x - 0.04, y, z), atol=2e-3)
    assert np.allclose(env.object_positions()[CYLINDER], others, atol=2e-3)
    assert plant.episode.info["first_contact"] is None, "the robot touched nothing"


def test_no_object_is_put_into_another_or_out_of_reach(plant):
    plant.begin(None)
    env = plant.env
    x, y, _ = env.object_positions()[CYLINDER]
    for name, place, problem in (
        (CUBE, (x + 0.01, y), f"the {CYLINDER} is there"),
        (CUBE, (5.0, 0.0), "outside the reach"),
        ("drawer", (x, y), "cannot be moved"),
    ):
        before = env.object_positions()
        with pytest.raises(SimulationError, match=problem):
            env.move_object(name, *place)
        assert env.object_positions() == before


def test_a_receptacle_takes_along_what_is_in_it_and_is_judged_where_it_is(plant):
    plant.begin(None)
    env, before = plant.env, plant.env.object_positions()
    box = env.physics.layout.receptacles[0].id
    x, y, _ = before[box]
    env.move_object(CUBE, x, y)
    for _ in range(8):
        plant.act(STILL)
    taken = env.object_positions()[CUBE]
    goal = {"verb": "put", "object": CUBE, "receptacle": box, "preposition": "in"}
    assert Put().satisfied(env.physics, goal)
    spots = [(x + dx, y + dy) for dx in (-0.08, 0.0, 0.08) for dy in (-0.1, 0.1)]
    moved = next(spot for spot in spots if can_move(env, box, spot))
    for _ in range(8):
        plant.act(STILL)
    shift = np.subtract(moved, (x, y))
    assert np.allclose(env.object_positions()[CUBE][:2], taken[:2] + shift, atol=5e-3)
    assert np.allclose(env.object_positions()[box][:2], moved) and env.physics.fault() is None
    assert Put().satisfied(env.physics, goal) and plant.episode.info["first_contact"] is None
    cylinder = env.object_positions()[CYLINDER]
    with pytest.raises(SimulationError, match="something else is there"):
        env.move_object(box, *cylinder[:2])
    plant.begin(None)
    assert env.object_positions() == before


def can_move(env, name, place):
    try:
        env.move_object(name, *place)
    except SimulationError:
        return False
    return True


def test_a_receptacle_is_not_moved_into_the_gripper(plant):
    plant.begin(None)
    env = plant.env
    env.physics.data.site_xpos[env.physics._site] = (0.5, 0.0, 0.05)
    box = env.physics.layout.receptacles[0].id
    for obj in (*env.physics.layout.movables, *env.physics.layout.receptacles[1:]):
        env.physics.data.xpos[env.physics._bodies[obj.id]] = (0.0, 5.0, 0.0)
    mount = env._mount.point(np.array((0.5, 0.02, 0.0)))
    with pytest.raises(SimulationError, match="the gripper is in the way"):
        env.move_object(box, *mount[:2])


def test_an_object_is_moved_by_its_picture(plant):
    """From the pixel that shows it to the pixel of another place: the simulator's own camera model agrees."""
    from verbot.console.pointing import Projection

    plant.begin(None)
    calibration = plant.episode.info["calibration"]["front"]
    view = Projection.of(calibration, 64)
    x, y, z = plant.env.object_positions()[CUBE]
    start, end = view.pixel((x, y, z)), view.pixel((x - 0.03, y, z))
    assert plant.move("front", start, end) == CUBE
    assert np.allclose(plant.env.object_positions()[CUBE], (x - 0.03, y, z), atol=1e-6)
    with pytest.raises(SimulationError, match="no object"):
        plant.move("front", (0.0, 0.0), (0.5, 0.5))
    with pytest.raises(SimulationError, match="moves with the arm"):
        plant.move("wrist", start, end)


def test_the_picture_shows_objects_where_the_projection_says():
    from verbot.console.pointing import Projection

    env = make_env("tabletop-starter", image_size=64)
    plant = SimulatedPlant(env, {"index": 0})
    masks, view = env.segmentation(), Projection.of(plant.episode.info["calibration"]["front"], 64)
    for name, place in env.object_positions().items():
        rows, columns = np.nonzero(masks.mask("front", name))
        u, v = view.pixel(place)
        assert abs(64 * u - columns.mean()) < 2 and abs(64 * v - rows.mean()) < 2
    plant.close()
