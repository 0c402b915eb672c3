"""A person moves an object of the tabletop while an episode runs: `verbot.contracts.Disturbable`."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.console.plants import SimulatedPlant
from verbot.contracts import Disturbable
from verbot.envs import make_env
from verbot.envs.tabletop.env import STILL
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
        ("red plate", (x, y), "cannot be moved"),
    ):
        before = env.object_positions()
        with pytest.raises(SimulationError, match=problem):
            env.move_object(name, *place)
        assert env.object_positions() == before


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
