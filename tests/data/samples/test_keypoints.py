from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from verbot.data.samples.keypoints import (
    acting,
    gripper_open,
    handled_by,
    handled_points,
    project,
    projections,
    rotation_matrices,
)
from verbot.spec import RobotSpec


@pytest.fixture
def walk(spec: RobotSpec):
    """States of a tool that moves 1 cm along x with each frame, and actions with the given gripper commands."""

    def build(commands: list[float]) -> tuple[np.ndarray, np.ndarray]:
        states = np.zeros((len(commands), 8), np.float32)
        states[:, 0] = 0.01 * np.arange(len(commands))
        states[:, 3] = 1
        actions = np.zeros((len(commands), 4), np.float32)
        actions[:, 3] = commands
        return states, actions

    return build


def frames_of(points: np.ndarray) -> list[list[int]]:
    """Which frame's tool position each point is; −1 for unknown."""
    return np.where(np.isnan(points[..., 0]), -1, np.round(points[..., 0] * 100)).astype(int).T.tolist()


@pytest.mark.parametrize(
    ("commands", "first_contact", "target", "receptacle"),
    [
        # pick and place: to where it closes, with the tool while closed, then where it was let go
        ([1, 1, 0, 0, 0, 1, 1], None, [2, 2, 2, 3, 4, 5, 5], [5, 5, 5, 5, 5, 5, 5]),
        # pick up: it never opens, so the receptacle is where it ends
        ([1, 1, 0, 0], None, [2, 2, 2, 3], [3, 3, 3, 3]),
        # two objects one after another
        ([1, 0, 1, 1, 0, 1], None, [1, 1, 4, 4, 4, 5], [2, 2, 2, 5, 5, 5]),
        # closed all along: only the first contact that was recorded defines it
        ([0, 0, 0, 0], 2, [2, 2, 2, 3], [3, 3, 3, 3]),
        ([0, 0, 0], None, [-1, -1, -1], [2, 2, 2]),
        # pushed: it closes behind the object, and touches it later
        ([1, 0, 0, 0, 0], 3, [3, 3, 3, 3, 4], [4, 4, 4, 4, 4]),
        # grasped, carried and let go: first contact while it closes
        ([1, 1, 0, 0, 1, 1], 2, [2, 2, 2, 3, 4, 4], [4, 4, 4, 4, 4, 4]),
        # pushed: first contact some frames after it closed behind the object; the hand is at the object from then on
        ([1, 1, 0, 0, 0], 3, [3, 3, 3, 3, 4], [4, 4, 4, 4, 4]),
        # first contact at frame 1; the second object is known by where it closes
        ([1, 0, 1, 1, 0, 1], 1, [1, 1, 4, 4, 4, 5], [2, 2, 2, 5, 5, 5]),
        # closed at first, then opened to grasp
        ([0, 1, 0, 0], None, [0, 2, 2, 3], [1, 1, 3, 3]),
    ],
)
def test_what_is_handled_is_read_off_the_gripper(spec, walk, commands, first_contact, target, receptacle):
    assert frames_of(handled_points(*walk(commands), spec, first_contact)) == [target, receptacle]


def test_the_threshold_is_the_middle_of_the_range(spec, walk):
    _, actions = walk([0.49, 0.51])
    assert gripper_open(actions, spec).tolist() == [False, True]
    wide = dataclasses.replace(spec.action[1], low=(-1.0,), high=(1.0,))
    spec = dataclasses.replace(spec, action=(spec.action[0], wide))
    assert gripper_open(walk([-0.2, 0.2])[1], spec).tolist() == [False, True]


def test_rotation_matrices_against_a_known_turn():
    half = np.sqrt(0.5)
    quarter = rotation_matrices(np.array([[half, 0, 0, half], [2.0, 0, 0, 0]]))  # about z; and one not of length one
    assert quarter[0] @ [1, 0, 0] == pytest.approx([0, 1, 0], abs=1e-12)
    assert quarter[1] == pytest.approx(np.eye(3))


def pinhole(point, pose, intrinsics, width, height):
    """A point in the base frame, straight from the definition of a pinhole camera."""
    x, y, z = (np.linalg.inv(pose) @ [*point, 1])[:3]
    fx, _, cx, _, fy, cy, *_ = intrinsics
    return np.array([(fx * x / z + cx) / width * 2 - 1, (fy * y / z + cy) / height * 2 - 1]), z


def test_projection_of_a_fixed_and_a_moving_camera_against_a_pinhole(spec):
    rng = np.random.default_rng(0)
    count = 200
    states = rng.uniform(-0.2, 0.2, (count, 8)).astype(np.float32)
    quaternions = rng.normal(size=(count, 4)) * 0.2 + [1, 0, 0, 0]
    states[:, 3:7] = quaternions / np.linalg.norm(quaternions, axis=1, keepdims=True)
    intrinsics = (30.0, 0.0, 17.0, 0.0, 28.0, 11.0, 0.0, 0.0, 1.0)
    tilt = np.eye(4)
    tilt[:3, :3] = np.diag([1, -1, -1]) @ rotation_matrices(np.array([[1, 0.1, -0.05, 0.2]]))[0]
    tilt[:3, 3] = (0.05, -0.03, 0.8)
    calibration = {
        name: {"intrinsics": intrinsics, "extrinsics": tilt.ravel().tolist(), "frame": frame}
        for name, frame in (("front", "base"), ("wrist", "tool"))
    }
    points = rng.uniform(-0.3, 0.3, (count, 2, 3))
    places, mask = project(projections(states, spec, calibration, ("front", "wrist")), points)
    seen = 0
    for i in range(count):
        tool = np.eye(4)
        tool[:3, :3], tool[:3, 3] = rotation_matrices(states[i : i + 1, 3:7].astype(float))[0], states[i, :3]
        for view, pose in enumerate((tilt, tool @ tilt)):
            for p in range(2):
                expected, depth = pinhole(points[i, p], pose, intrinsics, 32, 24)
                inside = bool(depth > 1e-3 and (np.abs(expected) <= 1).all())
                assert mask[i, view, p] == inside
                assert places[i, view, p] == pytest.approx(expected if inside else np.zeros(2), abs=1e-4)
                seen += inside
    assert 100 < seen < 700


def test_what_cannot_be_known_is_masked(spec):
    states = np.zeros((3, 8), np.float32)
    states[:, 3] = 1
    points = np.zeros((3, 2, 3))
    points[:, 1] = np.nan
    down = np.diag([1.0, -1.0, -1.0, 1.0])
    down[2, 3] = 1
    front = {"front": {"intrinsics": (30, 0, 16, 0, 30, 12, 0, 0, 1), "extrinsics": down.ravel().tolist(), "frame": "base"}}
    places, mask = project(projections(states, spec, front, ("front", "wrist", "other")), points)
    assert mask.tolist() == [[[True, False], [False, False], [False, False]]] * 3
    assert np.isfinite(places).all()
    points[:, 0, 2] = 2  # behind the camera
    assert not project(projections(states, spec, front, ("front",)), points)[1].any()
    blind = dataclasses.replace(spec, state=spec.state[2:])  # a state without a pose
    assert np.isnan(handled_points(states[:, 7:], np.zeros((3, 4), np.float32), blind)).all()
    moving = {"front": front["front"] | {"frame": "tool"}}
    assert np.isnan(projections(states[:, 7:], blind, moving, ("front",))).all()


def test_the_specs_own_calibration_serves_where_the_episode_has_none(spec):
    camera = dataclasses.replace(
        spec.cameras[0], intrinsics=(30.0, 0, 16, 0, 30, 12, 0, 0, 1), extrinsics=tuple(np.eye(4).ravel())
    )
    known = dataclasses.replace(spec, cameras=(camera,))
    places, mask = project(projections(np.zeros((1, 8), np.float32), known, {}, ("front",)), np.array([[[0, 0, 1.0]]]))
    assert mask.all() and places[0, 0, 0] == pytest.approx([0, 0])


def both_arms(left: list[float], right: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """States in which the left tool moves 1 cm along x a frame and the right one along −x; actions with the grippers."""
    states, actions = np.zeros((len(left), 16), np.float32), np.zeros((len(left), 14), np.float32)
    states[:, 0], states[:, 8] = 0.01 * np.arange(len(left)), -0.01 * np.arange(len(left))
    states[:, [3, 11]] = 1
    actions[:, 6], actions[:, 13] = left, right
    return states, actions


def test_each_end_effector_has_its_own_keypoints(two_arms):
    recorded = both_arms([1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0])
    left, right = (handled_by(tool, *recorded, two_arms) for tool in two_arms.end_effectors)
    assert frames_of(left) == [[1, 1, 2, 3, 3, 3], [3, 3, 3, 3, 3, 3]]
    assert frames_of(-right) == [[4, 4, 4, 4, 4, 5], [5, 5, 5, 5, 5, 5]]
    assert gripper_open(recorded[1], two_arms, two_arms.end_effectors[1]).tolist() == [True] * 4 + [False] * 2


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ([1, 0, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1]),  # one after the other
        ([1, 1, 0, 0], [1, 0, 0, 1], [1, 1, 0, 0]),  # both hold at frame 2: the first of the spec
        ([1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 1]),  # which let go last
        ([1, 1], [1, 1], [0, 0]),  # neither grips
    ],
)
def test_of_several_end_effectors_the_one_that_acts_counts(two_arms, left, right, expected):
    states, actions = both_arms(left, right)
    assert acting(actions, two_arms).tolist() == expected
    each = [handled_by(tool, states, actions, two_arms) for tool in two_arms.end_effectors]
    np.testing.assert_array_equal(
        handled_points(states, actions, two_arms), np.stack([each[which][frame] for frame, which in enumerate(expected)])
    )


def test_each_camera_moves_with_the_end_effector_of_its_frame(two_arms):
    states, _ = both_arms([1, 1, 1], [1, 1, 1])
    down = np.diag([1.0, -1.0, -1.0, 1.0])
    down[2, 3] = 1
    pose = {"intrinsics": (30, 0, 16, 0, 30, 12, 0, 0, 1), "extrinsics": down.ravel().tolist()}
    frames = {"front": "base", "left_wrist": "left", "right_wrist": "right"}
    matrices = projections(states, two_arms, {name: {**pose, "frame": frame} for name, frame in frames.items()}, tuple(frames))
    places, mask = project(matrices, np.zeros((3, 1, 3)))
    assert mask.all()
    # A camera that moves 1 cm along x, 1 m above, sees the origin 0.3 of 16 pixels further left.
    expected = 30 * 0.01 / 16 * np.arange(3)
    for view, sign in enumerate((0, -1, 1)):
        np.testing.assert_allclose(places[:, view, 0, 0], sign * expected, atol=1e-6)
    turning = {"front": {**pose, "frame": "head"}}
    assert np.isnan(projections(states, two_arms, turning, ("front",))).all(), "nobody knows where the head is"


def test_a_pose_in_another_frame_than_the_base_is_unknown(two_arms):
    states, actions = both_arms([1, 0], [1, 0])
    own = dataclasses.replace(two_arms.state[0], frame="left_base")
    spec = dataclasses.replace(two_arms, state=(own, *two_arms.state[1:]))
    left, right = (handled_by(tool, states, actions, spec) for tool in spec.end_effectors)
    assert np.isnan(left).all() and np.isfinite(right).all()
