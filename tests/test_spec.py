import dataclasses
import json

import numpy as np
import pytest

from verbot.errors import SpecError
from verbot.spec import ActionChunk, Camera, Component, EndEffector, MotionLimits, Observation, RobotSpec, Workspace

MOVE = Component("move", "position_delta", ("x", "y"), "m", "base", (-0.1, -0.2), (0.1, 0.2))
GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
CAMERA = Camera("front", 4, 6, intrinsics=(1.0,) * 9, extrinsics=(0.0,) * 16)
SPEC = RobotSpec("toy", 10.0, (CAMERA, Camera("wrist", 4, 6, frame="tool")), (GRIPPER,), (MOVE, GRIPPER))


def test_a_spec_counts_and_slices():
    assert (SPEC.state_size, SPEC.action_size, SPEC.camera_names) == (1, 3, ("front", "wrist"))
    assert SPEC.action_slices() == {"move": slice(0, 2), "gripper": slice(2, 3)}
    assert SPEC.state_slices() == {"gripper": slice(0, 1)}
    np.testing.assert_array_equal(SPEC.action_low(), np.array([-0.1, -0.2, 0.0], np.float32))
    np.testing.assert_array_equal(SPEC.action_high(), np.array([0.1, 0.2, 1.0], np.float32))


def test_a_spec_survives_json():
    assert RobotSpec.from_json(json.loads(json.dumps(SPEC.to_json()))) == SPEC


@pytest.mark.parametrize("record", [{}, {"name": "x"}, {**SPEC.to_json(), "cameras": [{"name": "a", "size": 3}]}])
def test_a_record_that_is_no_spec_is_refused(record):
    with pytest.raises(SpecError, match="not a robot spec"):
        RobotSpec.from_json(record)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dataclasses.replace(MOVE, kind="wheel"), "component 'move' has kind 'wheel'; expected one of position"),
        (lambda: dataclasses.replace(MOVE, axes=("x",)), "1 axes, 2 low, 2 high"),
        (lambda: dataclasses.replace(MOVE, axes=(), low=(), high=()), "0 axes"),
        (lambda: dataclasses.replace(MOVE, low=(0.1, 0.0)), "low that is not below its high"),
        (lambda: Camera("front", 0, 6), "size 0×6; expected positive"),
        (lambda: Camera("front", 4, 6, intrinsics=(1.0,)), "1 intrinsics; expected 9"),
        (lambda: Camera("front", 4, 6, extrinsics=(1.0,)), "1 extrinsics; expected 16"),
        (lambda: dataclasses.replace(SPEC, rate_hz=0), "rate 0 Hz; expected more than 0"),
        (lambda: dataclasses.replace(SPEC, name=["toy"]), "the name of the robot is list, not text"),
        (lambda: dataclasses.replace(SPEC, cameras=(CAMERA, CAMERA)), "camera name twice: front, front"),
        (lambda: dataclasses.replace(SPEC, action=(MOVE, MOVE)), "action name twice"),
        (
            lambda: dataclasses.replace(SPEC, cameras=(Camera("front", 4, 6, frame="moon"),)),
            "camera 'front' of robot 'toy' is in frame 'moon'; its frames are base, tool",
        ),
        (lambda: EndEffector("base", ("gripper",)), "an end effector is called 'base'; expected a name of its own"),
        (lambda: EndEffector("left"), "end effector 'left' has no components"),
        (lambda: grouped(EndEffector("a", (), ("move",)), EndEffector("a", (), ("gripper",))), "end effector name twice: a, a"),
        (
            lambda: grouped(EndEffector("a", ("move",))),
            "'a' of robot 'toy' has the state component 'move'; the robot's are gripper",
        ),
        (
            lambda: grouped(EndEffector("a", (), ("move",)), EndEffector("b", (), ("gripper", "move"))),
            "action component 'move' of robot 'toy' is in two groups: a and b",
        ),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def grouped(*groups, **changes):
    return dataclasses.replace(SPEC, groups=groups, **changes)


def test_a_spec_without_groups_has_the_one_end_effector_that_its_components_make_up():
    assert SPEC.end_effectors == (EndEffector("tool", ("gripper",), ("move", "gripper")),)
    assert SPEC.end_effector("tool") == SPEC.end_effectors[0]
    assert not {"groups", "frames"} & set(SPEC.to_json()), "written as before there were groups"
    plane = dataclasses.replace(MOVE, name="position", kind="position")
    turn = Component("go", "discrete", ("choice",), "1", "base", (0.0,), (3.0,))
    rover = RobotSpec("rover", 5.0, (CAMERA,), (plane,), (turn,))
    assert rover.end_effectors == () and rover.end_effector("tool") is None


def test_a_spec_of_two_arms_finds_the_parts_of_each(two_arms):
    left, right = two_arms.end_effectors
    assert (left.name, right.name) == ("left", "right")
    component, where = two_arms.state_of(right, "position")
    assert (component.name, where) == ("right_position", slice(8, 11))
    component, where = two_arms.action_of(right, "gripper")
    assert (component.name, where) == ("right_gripper", slice(13, 14))
    assert two_arms.action_of(left, "discrete") is None
    assert two_arms.end_effector("right") == right and two_arms.end_effector("tool") is None
    assert RobotSpec.from_json(json.loads(json.dumps(two_arms.to_json()))) == two_arms


def test_a_camera_is_in_a_frame_that_the_spec_names(two_arms):
    assert two_arms.frame_names == ("base", "left", "right")
    with pytest.raises(
        SpecError, match="camera 'wrist' of robot 'two-arms' is in frame 'tool'; its frames are base, left, right"
    ):
        dataclasses.replace(two_arms, cameras=(Camera("wrist", 4, 6, frame="tool"),))
    head = dataclasses.replace(two_arms, cameras=(Camera("head", 4, 6, frame="head"),), frames=("head",))
    assert RobotSpec.from_json(json.loads(json.dumps(head.to_json()))) == head
    one = grouped(EndEffector("arm", ("gripper",), ("move", "gripper")))
    assert one.frame_names == ("base", "tool", "arm") and one.end_effector("tool") == one.end_effector("arm") == one.groups[0]


def observation(**changes):
    images = {name: np.zeros((4, 6, 3), np.uint8) for name in ("front", "wrist")}
    return dataclasses.replace(Observation(images, np.zeros(1, np.float32)), **changes)


def test_an_observation_that_fits_passes():
    observation().check(SPEC)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": {"front": np.zeros((4, 6, 3), np.uint8)}}, "lacks camera 'wrist' of robot 'toy'; it has front"),
        ({"images": {}}, "it has no cameras"),
        ({"images": {"front": np.zeros((6, 4, 3), np.uint8)}}, r"uint8 \(6, 4, 3\); expected uint8 \(4, 6, 3\)"),
        ({"images": {"front": np.zeros((4, 6, 3), np.float32)}}, "gave float32"),
        ({"state": np.zeros(2, np.float32)}, r"shape \(2,\); robot 'toy' expects \(1,\)"),
        ({"state": np.array([np.nan], np.float32)}, r"not finite: \[nan\]"),
    ],
)
def test_an_observation_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(SpecError, match=message):
        observation(**changes).check(SPEC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"values": np.full((2, 3), np.nan, np.float32)}, "row 0 .* is not finite"),
        ({"values": np.zeros((0, 3), np.float32)}, "expects 1 to 4096 rows of 3"),
        ({"values": np.zeros((5000, 3), np.float32)}, "expects 1 to 4096 rows of 3"),
        ({"values": np.zeros((2, 4), np.float32)}, "expects 1 to 4096 rows of 3"),
        ({"values": np.zeros(3, np.float32)}, "expected floating point"),
        ({"values": np.zeros((2, 3), object)}, "expected floating point"),
        ({"time_s": float("inf")}, "has the time inf"),
        ({"memory": {"state": np.array([np.inf])}}, "memory 'state' is not finite"),
        ({"memory": {"state": np.array(["a"])}}, "expected an array of plain numbers"),
    ],
)
def test_a_chunk_that_no_robot_can_execute_is_refused(change, message):
    axes = ("x", "y", "z")
    spec = RobotSpec("arm", 10.0, (), (), (Component("move", "position_delta", axes, "m", "base", (-1.0,) * 3, (1.0,) * 3),))
    good = {"values": np.zeros((2, 3), np.float32), "memory": {"state": np.zeros(2, np.float32)}}
    ActionChunk(**good).check(spec)
    with pytest.raises(SpecError, match=message):
        ActionChunk(**{**good, **change}).check(spec)


LIMITS = MotionLimits("gripper", low=(0.1,), high=(0.9,), step=(0.2,))


def test_limits_are_stored_and_make_no_other_robot():
    spec = dataclasses.replace(SPEC, limits=(LIMITS,), max_age_s=0.5, workspaces=(Workspace("tool", (0, 0, 0), (1, 1, 1)),))
    stored = RobotSpec.from_json(json.loads(json.dumps(spec.to_json())))
    assert (stored.limits, stored.workspaces, stored.max_age_s) == (spec.limits, spec.workspaces, 0.5)
    assert spec == SPEC and not {"limits", "workspaces", "max_age_s"} & SPEC.to_json().keys()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MotionLimits("gripper"), "limits of component 'gripper' limit nothing; expected one of low"),
        (lambda: MotionLimits("gripper", low=(0.0,)), "only one of low and high"),
        (lambda: MotionLimits("gripper", low=(1.0,), high=(0.0,)), "a low that is not below its high"),
        (lambda: MotionLimits("gripper", step=(0.0,)), "step of the limits of component 'gripper' is .*above 0"),
        (lambda: MotionLimits("gripper", jerk=(float("nan"),)), "expected finite numbers, one per axis"),
        (lambda: MotionLimits("gripper", step=(1.0,), jerk=(1.0, 1.0)), "differ in their number of axes"),
        (lambda: dataclasses.replace(SPEC, limits=(MotionLimits("move", step=(1.0,)),)), "limits for 1 axes of component 'move'"),
        (lambda: dataclasses.replace(SPEC, limits=(LIMITS, LIMITS)), "has limits twice"),
        (lambda: dataclasses.replace(SPEC, workspaces=(Workspace("arm", (0, 0, 0), (1, 1, 1)),)), "its end effectors are 'tool'"),
        (lambda: Workspace("tool", (0, 0), (1, 1)), "2 numbers; expected x, y and z"),
        (lambda: dataclasses.replace(SPEC, max_age_s=0), "max_age_s 0; expected seconds, more than 0"),
    ],
)
def test_limits_that_are_none_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_planned_actions_are_checked():
    observation = Observation({"front": np.zeros((4, 6, 3), np.uint8)}, np.zeros(1, np.float32))
    spec = dataclasses.replace(SPEC, cameras=(CAMERA,))
    dataclasses.replace(observation, planned=np.zeros((4, 3), np.float32), committed=4).check(spec)
    with pytest.raises(SpecError, match=r"shape \(4, 2\)"):
        dataclasses.replace(observation, planned=np.zeros((4, 2), np.float32)).check(spec)
    with pytest.raises(SpecError, match="5 committed actions; expected 0 to 4"):
        dataclasses.replace(observation, planned=np.zeros((4, 3), np.float32), committed=5).check(spec)
