"""The same arm at another side of the table: the scene stays, and state and action turn with its base."""

from __future__ import annotations

import numpy as np
import pytest

from verbot.data.samples.keypoints import rotation_matrices
from verbot.envs import envs, make_env
from verbot.envs.tabletop.env import robot_spec
from verbot.envs.tabletop.simulation import arm, robot_mount
from verbot.envs.tabletop.simulation.physics import Physics
from verbot.envs.tabletop.simulation.scene import SceneConfig
from verbot.envs.tabletop.suites import RENAMED, find
from verbot.errors import UnknownNameError, VerbotDeprecationWarning

RIGHT = robot_mount.MOUNTS["right"]


@pytest.fixture(scope="module")
def back():
    return make_env("tabletop-starter")


def test_former_names_of_suites_are_read_with_a_warning():
    for old, new in RENAMED.items():
        with pytest.warns(VerbotDeprecationWarning, match=f"the env '{old}' is now called '{new}'"):
            env = make_env(old, render_cameras=False)
        assert env.tasks == make_env(new, render_cameras=False).tasks
        with pytest.warns(VerbotDeprecationWarning, match=f"the suite '{old}' is now called '{new}'"):
            assert find(old).name == new
        assert old not in envs.names() and new in envs.names()


def test_renamed_suites_keep_the_seeds_of_their_scenes():
    assert {new: find(new).scenes_of for new in RENAMED.values()} == {
        "tabletop-revisit": "tabletop-memory",
        "tabletop-other-robot": "tabletop-starter",
    }


@pytest.fixture(scope="module")
def right():
    return make_env("tabletop-other-robot")


def finish(env, **options) -> bool:
    env.reset(seed=0, options=options)
    expert = env.expert(0.15)
    expert.reset()
    while True:
        _, _, won, out_of_time, info = env.step(expert.act())
        assert info["error"] is None
        if won or out_of_time:
            return won


def test_a_turn_and_back_is_exact():
    rng = np.random.default_rng(0)
    for mount in robot_mount.MOUNTS.values():
        for action in rng.normal(size=(10, 7)):
            np.testing.assert_array_equal(mount.to_base(mount.to_scene(action)), action)
        np.testing.assert_allclose(mount.point(mount.matrix[:3, 3]), 0.0, atol=1e-12)
        turn = arm.rotation_about_z(mount.quarter_turns * np.pi / 2)
        np.testing.assert_allclose(mount.rotation, turn, atol=1e-12)
        np.testing.assert_allclose(rotation_matrices(np.array([mount.quaternion]))[0], turn, atol=1e-12)


def test_the_base_stands_where_the_model_says():
    physics = Physics(SceneConfig(mount="right"))
    base = physics.model.body("base").id
    np.testing.assert_allclose(physics.model.body_pos[base], (RIGHT.x, RIGHT.y, 0.0))
    np.testing.assert_allclose(physics.model.body_quat[base], RIGHT.quaternion, atol=1e-9)


@pytest.mark.parametrize("name", robot_mount.MOUNTS)
def test_the_arm_reaches_the_whole_workspace_within_its_limits(name):
    physics = Physics(SceneConfig(mount=name))
    for goal in np.random.default_rng(0).uniform((0.40, -0.22, 0.02), (0.64, 0.22, 0.20), (20, 3)):
        for yaw in (-0.8, 0.0, 0.8):
            joints = physics._tracker.reach(goal, arm.rotation_about_z(yaw))
            physics.data.qpos[:7] = joints
            physics.refresh()
            np.testing.assert_allclose(physics.tool_position, goal, atol=1e-3)
            assert (joints >= arm.LOW_RAD).all() and (joints <= arm.HIGH_RAD).all()


def test_scenes_words_and_what_the_camera_sees_of_objects_stay(back, right):
    (ours, info), (theirs, other) = (env.reset(seed=0, options={"index": 5}) for env in (right, back))
    assert ours["instruction"] == theirs["instruction"] and info["feasible"] == other["feasible"]
    for obj in right.physics.layout:
        np.testing.assert_array_equal(right.physics.position(obj.id), back.physics.position(obj.id))
    # The same scene through the same cameras: where an object is seen does not depend on who is to handle it.
    seen = [env.segmentation() for env in (right, back)]
    for obj in right.physics.layout:
        masks = [view.mask("front", obj.id) for view in seen]
        assert (masks[0] & masks[1]).sum() >= 0.9 * (masks[0] | masks[1]).sum() > 0


def test_state_action_and_calibration_are_in_the_frame_of_the_base(right):
    record, info = right.reset(seed=0, options={"index": 5})
    position, rotation = record["state"][:3], rotation_matrices(record["state"][None, 3:7].astype(float))[0]
    np.testing.assert_allclose(RIGHT.matrix[:3, :3] @ position + RIGHT.matrix[:3, 3], right.physics.tool_position, atol=1e-6)
    np.testing.assert_allclose(RIGHT.rotation @ rotation, right.physics.tool_rotation, atol=1e-5)
    spec = right.robot_spec
    low, high = np.array(spec.state[0].low), np.array(spec.state[0].high)
    assert (low < position).all() and (position < high).all()
    for _ in range(6):  # along the base's own x
        moved, *_ = right.step(np.array((0.03, 0, 0, 0, 0, 0, 1), np.float32))
    travel = moved["state"][:3] - position
    assert travel[0] > 0.12 and np.abs(travel[1:]).max() < 0.01
    # An object's place in the base's frame, through the calibration, is where the camera sees it.
    entry = info["grounding"][0]["target_base_m"]
    camera = np.reshape(info["calibration"]["front"]["extrinsics"], (4, 4))
    x, y, z = (np.linalg.inv(camera) @ (*entry, 1.0))[:3]
    focal, center = info["calibration"]["front"]["intrinsics"][0], 32.0
    record, info = right.reset(seed=0, options={"index": 5})
    mask = right.segmentation().mask("front", info["target_object"])
    rows, columns = np.nonzero(mask)
    assert abs(columns.mean() - (center + focal * x / z)) < 4 and abs(rows.mean() - (center + focal * y / z)) < 4


@pytest.mark.parametrize("task", ["pick", "push", "put"])
def test_the_expert_works_there_as_well(right, task):
    assert sum(finish(right, task=task, index=index) for index in range(8)) >= 7


def test_at_the_back_nothing_has_changed(back):
    record, _ = back.reset(seed=0, options={"index": 5})
    np.testing.assert_array_equal(record["state"][:3], back.physics.tool_position.astype(np.float32))
    assert back.robot_spec.name == "tabletop-panda" and robot_spec(mount="right").name == "tabletop-panda-right"


def test_a_place_that_does_not_exist_is_named():
    with pytest.raises(UnknownNameError, match=r"no mount of the arm named 'rihgt'. Did you mean 'right'\? Known: back, right"):
        robot_mount.find("rihgt")
