"""What is named in the navigation world is drawn where it is, and felt."""

from __future__ import annotations

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from navigation_fixtures import POST, place, rover

import verbot.envs  # noqa: F401
from verbot.data.samples.keypoints import project, projections
from verbot.envs import make_env
from verbot.envs.navigation.renderer import ARM, Painter
from verbot.envs.navigation.world import (
    ACTIONS,
    BACK,
    COLORS,
    FORWARD,
    LEFT,
    LOWER,
    RAISE,
    RIGHT,
    SHAPES,
    SIDE_M,
    STEP_M,
    STOP,
    TURN_RAD,
    NavigationObject,
)

PIXELS_PER_M = 64 / SIDE_M


@pytest.fixture(scope="module")
def env():
    return make_env("navigation")


def _is_near(pixel, color, tolerance=40):
    return np.abs(pixel.astype(int) - color).max() <= tolerance


# Drawn.


@pytest.mark.parametrize("shape", SHAPES)
def test_a_mark_at_x_and_y_is_drawn_in_row_y_and_column_x(shape):
    obj = NavigationObject("red", shape, (0.8, 2.4))
    picture = Painter(rover(2.9, 0.3, objects=(obj,), lines=()).scene, 64).picture(rover(2.9, 0.3, objects=(obj,), lines=()))
    row, column = round(2.4 * PIXELS_PER_M), round(0.8 * PIXELS_PER_M)
    assert _is_near(picture[row, column], COLORS["red"])
    assert not _is_near(picture[column, row], COLORS["red"])
    robot = picture[round(0.3 * PIXELS_PER_M), round(2.9 * PIXELS_PER_M) - 1]
    assert robot.mean() > 120 or robot.max() < 60  # its body or its nose, not the floor


def test_everything_that_can_be_named_is_drawn_where_it_is(env):
    for index in range(20):
        record, _ = env.reset(seed=1, options={"index": index})
        image, scene, world = record["images"]["top"], env.world.scene, env.world
        for obj in scene.objects:
            x, y = obj.center_m
            assert _is_near(image[int(y * PIXELS_PER_M), int(x * PIXELS_PER_M)], COLORS[obj.color]), obj
        for line in scene.lines:
            seen = [
                _is_near(image[int(y * PIXELS_PER_M), int(x * PIXELS_PER_M)], COLORS[line.color], 110)
                for x, y in line.points_m[4:]
                if world.distance_m((x, y)) > 0.3
            ]
            assert np.mean(seen) > 0.9, line


def test_shapes_heading_and_arm_look_different():
    pictures = []
    for shape in SHAPES:
        world = rover(objects=(NavigationObject("red", shape, (1.6, 1.6)),), lines=())
        pictures.append(Painter(world.scene, 64).picture(world))
    for a, b in itertools.combinations(pictures, 2):
        assert (np.abs(a.astype(int) - b).max(-1) > 60).sum() >= 8
    world = rover(0.6, 0.6)
    painter, looks = Painter(world.scene, 64), []
    for heading, raised in itertools.product(np.arange(12) * TURN_RAD, (False, True)):
        world.heading_rad, world.arm_raised = heading, raised
        looks.append(painter.picture(world))
    for a, b in itertools.combinations(looks, 2):
        assert (np.abs(a.astype(int) - b).max(-1) > 30).any()
    assert _is_near(looks[1][12, 12], ARM) and not _is_near(looks[0][12, 12], ARM)


def test_the_robot_is_drawn_whole_at_every_wall():
    world = rover(objects=(POST,), lines=())
    painter = Painter(world.scene, 64)
    for x, y in itertools.product((0.13, 1.0, SIDE_M - 0.13), repeat=2):
        place(world, x, y, heading_rad=0.3)
        assert painter.picture(world).shape == (64, 64, 3)


def test_what_was_done_shows_as_a_track():
    world = rover(0.4, 0.4)
    painter = Painter(world.scene, 64)
    before = painter.picture(world)
    for _ in range(8):
        painter.track(world.path_m[-1])
        world.step(FORWARD)
    changed = (painter.picture(world) != before).any(-1)
    assert changed[8, 9:20].mean() > 0.8
    again = painter.picture(world)
    painter.track(world.path_m[0])
    painter.track(world.path_m[0])
    np.testing.assert_array_equal(again, painter.picture(world))


def test_what_was_followed_of_a_line_is_dark_whatever_else_was_tracked(env):
    _, info = env.reset(seed=0, options={"task": "follow"})
    expert, line = env.expert(), next(line for line in env.world.scene.lines if line.name == info["target_object"])
    while env.world.covered[line.name] < len(line.points_m) / 2:
        env.step(expert.act())
    picture = env.picture(size=256).astype(int)
    count = env.world.covered[line.name]
    color = np.array(COLORS[line.color])

    def like(points):
        seen = [picture[round(y * 80), round(x * 80)] for x, y in points if env.world.distance_m((x, y)) > 0.2]
        return np.mean([abs(pixel - color).sum() for pixel in seen])

    assert like(line.points_m[5 : count - 5]) > 3 * like(line.points_m[count + 5 :])


def test_the_calibration_says_where_a_point_of_the_floor_is_seen(env):
    record, info = env.reset(seed=0)
    matrices = projections(record["state"][None], env.robot_spec, info["calibration"], ("top",))
    x, y = 0.8, 2.4
    places, seen = project(matrices, np.array([[[x, y, 0.0]]]))
    assert seen.all()
    np.testing.assert_allclose(places[0, 0, 0], [2 * x / SIDE_M - 1, 2 * y / SIDE_M - 1], atol=1e-5)


# Felt.


def test_the_seven_actions_do_what_they_are_called():
    assert ACTIONS == ("forward", "back", "left", "right", "raise arm", "lower arm", "stop")
    world = rover(0.8, 0.8)
    world.step(FORWARD)
    assert (world.x_m, world.y_m) == pytest.approx((0.8 + STEP_M, 0.8))
    world.step(BACK)
    assert world.x_m == pytest.approx(0.8)
    for _ in range(3):
        world.step(RIGHT)  # clockwise in the picture: from looking right to looking down
    world.step(FORWARD)
    assert (world.x_m, world.y_m) == pytest.approx((0.8, 0.8 + STEP_M))
    for _ in range(3):
        world.step(LEFT)
    assert world.heading_rad == pytest.approx(0.0)
    world.step(RAISE)
    assert world.arm_raised
    world.step(LOWER)
    assert not world.arm_raised
    before = (world.x_m, world.y_m, world.heading_rad)
    world.step(STOP)
    assert (world.x_m, world.y_m, world.heading_rad) == before and world.stopped_at is None


@pytest.mark.parametrize(("action", "moved"), [(FORWARD, (0, -1)), (BACK, (0, 1)), (LEFT, (-1, 0)), (RIGHT, (1, 0))])
def test_by_the_compass_moves_are_those_of_the_picture(action, moved):
    world = rover(0.8, 0.8)
    world.compass = True
    world.step(action)
    assert (world.x_m - 0.8, world.y_m - 0.8) == pytest.approx((STEP_M * moved[0], STEP_M * moved[1]))
    assert (math.cos(world.heading_rad), math.sin(world.heading_rad)) == pytest.approx(moved)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("turns", range(12))
def test_objects_are_solid_and_a_bump_is_felt(shape, turns):
    obj = NavigationObject("red", shape, (1.6, 1.6))
    heading = turns * TURN_RAD
    world = rover(1.6 - 0.8 * math.cos(heading), 1.6 - 0.8 * math.sin(heading), heading, objects=(obj,), lines=())
    felt = []
    for _ in range(12):
        world.step(FORWARD)
        felt.append(world.bumped)
        assert obj.distance_m(world.x_m, world.y_m) >= 0.13
    assert not felt[0] and felt[-1]


def test_walls_are_solid(env):
    env.reset(seed=0)
    pressed = [env.step(FORWARD)[0]["state"][5] for _ in range(40)]
    assert pressed[-1] == 1.0 and env.world.is_free(env.world.x_m, env.world.y_m)


def test_the_state_is_what_the_robot_feels_of_itself(env):
    record, _ = env.reset(seed=4)
    heading = env.world.heading_rad
    felt = [env.world.x_m, env.world.y_m, math.cos(heading), math.sin(heading), env.world.arm_raised, 0]
    np.testing.assert_allclose(record["state"], felt, atol=1e-6)
    assert env.step(RAISE)[0]["state"][4] == 1 and env.step(LOWER)[0]["state"][4] == 0
