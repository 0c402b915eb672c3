"""The arm's kinematics are Franka's, and tracking brings the tool to its target."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from verbot.envs.tabletop.simulation import arm, scene
from verbot.envs.tabletop.simulation.layout import Layout
from verbot.envs.tabletop.simulation.physics import LEASH_M, Physics


@pytest.fixture(scope="module")
def model():
    return scene.compile_model(scene.SceneConfig(movables=0, receptacles=0))


def test_forward_kinematics_in_frankas_ready_pose(model):
    # The published flange pose at the ready joints is x = 0.3069, z = 0.5903 (m); the tool hangs 0.1034 below it.
    data = mujoco.MjData(model)
    data.qpos[:7] = arm.READY_RAD
    mujoco.mj_kinematics(model, data)
    np.testing.assert_allclose(data.site("tool").xpos, (0.3069, 0.0, 0.5903 - arm.TOOL_M), atol=2e-4)
    np.testing.assert_allclose(data.site("tool").xmat.reshape(3, 3), np.eye(3), atol=1e-5)


def test_tracking_reaches_poses_over_the_whole_table_within_the_limits(model):
    tracker, rng = arm.Tracker(model), np.random.default_rng(0)
    for _ in range(20):
        goal = rng.uniform((0.36, -0.28, 0.02), (0.70, 0.28, 0.25))
        turn = arm.rotation_about_z(rng.uniform(-0.8, 0.8))
        joints = tracker.reach(goal, turn)
        data = mujoco.MjData(model)
        data.qpos[:7] = joints
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(data.site("tool").xpos, goal, atol=1e-4)
        np.testing.assert_allclose(data.site("tool").xmat.reshape(3, 3), turn, atol=1e-3)
        assert (joints >= arm.LOW_RAD).all() and (joints <= arm.HIGH_RAD).all()


def test_near_joint_limits_the_position_comes_before_the_orientation(model):
    tracker, data = arm.Tracker(model), mujoco.MjData(model)
    joints = np.array((-1.2259, 1.7628, 1.9099, -2.3507, -1.4169, 0.9001, -2.8742))  # at the limits of joints 2 and 7
    goal, turn = (0.4689, -0.0567, 0.2142), arm.rotation_from_vector(np.array((0.1232, -0.0320, -1.3142)))
    for _ in range(4):
        joints = tracker.solve(joints, np.array(goal), turn)
    data.qpos[:7] = joints
    mujoco.mj_kinematics(model, data)
    assert (joints >= arm.LOW_RAD).all() and (joints <= arm.HIGH_RAD).all()
    np.testing.assert_allclose(data.site("tool").xpos, goal, atol=arm._MISS_M)


def test_rotation_vectors_and_matrices_are_inverse():
    for vector in np.random.default_rng(1).uniform(-1.5, 1.5, (10, 3)):
        np.testing.assert_allclose(arm.vector_from_rotation(arm.rotation_from_vector(vector)), vector, atol=1e-9)


def test_the_target_integrates_and_is_leashed():
    physics = Physics(scene.SceneConfig())
    home = np.array(arm.HOME_TOOL_M)
    physics.reset(Layout((), ()), home, 0.0)
    for _ in range(4):
        physics.step(np.array((0.03, 0, 0, 0, 0, 0.1, 1.0)))
    for _ in range(6):
        physics.step(np.array((0.0, 0, 0, 0, 0, 0, 1.0)))
    np.testing.assert_allclose(physics.tool_position - home, (0.12, 0, 0), atol=2e-3)
    assert physics.tool_yaw == pytest.approx(0.4, abs=0.01)
    for _ in range(20):  # into the table: the target must not run away
        physics.step(np.array((0.0, 0, -0.05, 0, 0, 0, 0.0)))
        assert np.linalg.norm(physics._target_position - physics.tool_position) < LEASH_M + 0.06
    assert physics.tool_position[2] > 0.005
    assert physics.opening < 0.05
