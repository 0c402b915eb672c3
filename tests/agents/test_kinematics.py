"""Forward kinematics, the spec of a chain, and a workspace that joints keep."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verbot.agents import Guard, GuardConfig
from verbot.agents.kinematics import ForwardKinematics
from verbot.errors import SpecError
from verbot.spec import ChainJoint, Component, EndEffector, KinematicChain, MotionLimits, Observation, RobotSpec, Workspace

RATE_HZ = 20.0
JOINTS = Component("joints", "joint_position", ("a", "b"), "rad", "base", (-2.0, -2.0), (2.0, 2.0))
LIMITS = MotionLimits("joints", (-1.0, -0.5), (1.0, 1.5), velocity=(2.0, 1.0), acceleration=(4.0, 30.0), jerk=(200.0, 500.0))
ARM = RobotSpec("arm", RATE_HZ, (), (JOINTS,), (JOINTS,), limits=(LIMITS,))


def drive(guard, request, steps=1):
    """The actions that the guard gives, executed exactly, from 0 on."""
    given, results = np.zeros(2, np.float32), []
    for step, each in enumerate(np.repeat(np.atleast_2d(np.array(request, np.float32)), steps, 0)):
        results.append(guard.apply(each, Observation({}, given, time_s=step / RATE_HZ)))
        given = results[-1].action
    return results


CHAIN = KinematicChain(
    "hand", "joints",
    (ChainJoint("a", (0.0, 0.0, 0.2), axis=(0.0, 1.0, 0.0)), ChainJoint("b", (0.0, 0.0, 0.5), axis=(0.0, 1.0, 0.0)),
     ChainJoint("tip", (0.0, 0.0, 0.4), kind="fixed")),
)  # fmt: skip
REACH = dataclasses.replace(
    ARM, groups=(EndEffector("hand", ("joints",), ("joints",)),), chains=(CHAIN,),
    workspaces=(Workspace("hand", (-0.3, -0.1, 0.0), (0.5, 0.1, 2.0)),),
)  # fmt: skip


def test_forward_kinematics_is_that_of_two_links():
    kinematics = ForwardKinematics(CHAIN, ("a", "b"), "rad")
    angles = np.random.default_rng(0).uniform(-2, 2, (50, 2))
    a, both = angles[:, 0], angles.sum(1)
    expected = np.stack([0.5 * np.sin(a) + 0.4 * np.sin(both), 0 * a, 0.2 + 0.5 * np.cos(a) + 0.4 * np.cos(both)], 1)
    np.testing.assert_allclose(kinematics.positions(angles), expected, atol=1e-12)
    turned = ChainJoint("lift", (1.0, 0.0, 0.0), (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0), kind="prismatic")
    lift = ForwardKinematics(KinematicChain("hand", "joints", (turned,)), ("lift",), "mm")
    np.testing.assert_allclose(lift.positions(np.array([[250.0]])), [[1.25, 0.0, 0.0]], atol=1e-12)
    degrees = ForwardKinematics(CHAIN, ("a", "b"), "deg/s")
    np.testing.assert_allclose(degrees.positions(np.degrees(angles)), expected, atol=1e-12)


def transform(joint, value):
    """The transform of a joint as a matrix (4, 4), by Rodrigues' formula."""
    (w, *v), axis = joint.quaternion, np.array(joint.axis)
    placed, moved = np.eye(4), np.eye(4)
    placed[:3, :3] = np.eye(3) + 2 * w * cross(v) + 2 * cross(v) @ cross(v)
    placed[:3, 3] = joint.xyz
    if joint.kind == "revolute":
        moved[:3, :3] += math.sin(value) * cross(axis) + (1 - math.cos(value)) * cross(axis) @ cross(axis)
    if joint.kind == "prismatic":
        moved[:3, 3] = axis * value
    return placed @ moved


def cross(v):
    return np.array([[0, -v[2], v[1]], [v[2], 0, -v[0]], [-v[1], v[0], 0]])


@pytest.mark.parametrize(
    ("kind", "unit", "scale"), [("revolute", "rad", 1.0), ("revolute", "deg", math.pi / 180), ("prismatic", "mm", 1e-3)]
)
def test_forward_kinematics_is_the_product_of_the_transforms_of_all_joints(kind, unit, scale):
    rng = np.random.default_rng(3)

    def direction(size):
        return tuple((v := rng.normal(size=size)) / np.linalg.norm(v))

    kinds = (kind, "fixed", kind, kind, kind, "fixed", kind, "fixed", "fixed")
    joints = tuple(
        ChainJoint(f"j{i}", tuple(rng.normal(size=3)), direction(4), direction(3), each) for i, each in enumerate(kinds)
    )
    chain, axes = KinematicChain("hand", "joints", joints), ("j6", "j3", "other", "j0", "j2", "j4")
    kinematics, values = ForwardKinematics(chain, axes, unit), rng.uniform(-3, 3, (20, 6)) / scale
    for row, position in zip(values, kinematics.positions(values), strict=True):
        by_name, product = dict(zip(axes, row * scale, strict=True)), np.eye(4)
        for joint in joints:
            product = product @ transform(joint, by_name.get(joint.name, 0.0))
        np.testing.assert_allclose(position, product[:3, 3], atol=1e-10)
    away = kinematics.seen_from(np.array([1.0, 2.0, 3.0])).positions(values)
    np.testing.assert_allclose(away, kinematics.positions(values) - (1.0, 2.0, 3.0), atol=1e-12)


def test_no_change_of_a_joint_moves_the_end_effector_farther_than_its_reach():
    kinematics = ForwardKinematics(CHAIN, ("a", "b"), "rad")
    assert kinematics.reach.tolist() == pytest.approx([0.9, 0.4])
    rng = np.random.default_rng(1)
    start, change = rng.uniform(-2, 2, (200, 2)), rng.uniform(-0.3, 0.3, (200, 2))
    moved = np.linalg.norm(kinematics.positions(start + change) - kinematics.positions(start), axis=1)
    assert (moved <= np.abs(change) @ kinematics.reach + 1e-12).all() and (moved > 0.9 * np.abs(change) @ kinematics.reach).any()


@settings(max_examples=25, deadline=None)
@given(requests=st.lists(st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=2), min_size=3, max_size=12))
def test_the_end_effector_of_a_chain_stays_in_its_workspace(requests):
    results = drive(Guard(REACH, GuardConfig(patience=10**6)), requests, 8)
    actions = np.array([result.action for result in results], float)
    x, _, z = ForwardKinematics(CHAIN, ("a", "b"), "rad").positions(actions).T
    assert x.min() >= -0.3 - 1e-4 and x.max() <= 0.5 + 1e-4 and z.min() >= -1e-4
    speeds = np.diff(np.vstack([np.zeros((2, 2)), actions]), axis=0) * RATE_HZ
    assert (np.abs(np.diff(speeds, axis=0)) * RATE_HZ <= np.array(LIMITS.acceleration) + 0.01).all()


def test_the_workspace_is_named_in_the_event():
    results = drive(Guard(REACH, GuardConfig(patience=10**6)), (0.9, 0.3), 60)
    assert "workspace" in {event.rule for result in results for event in result.events}
    np.testing.assert_allclose(results[-1].action, results[-2].action, atol=1e-3)


def chain_of(*joints):
    return KinematicChain("hand", "joints", joints)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ChainJoint("a", (0, 0), kind="fixed"), "xyz of joint 'a'"),
        (lambda: ChainJoint("a", (0, 0, 0), axis=(0, 0, 2)), "length 2; expected 1"),
        (lambda: ChainJoint("a", (0, 0, 0), kind="ball"), "kind 'ball'; expected one of revolute"),
        (lambda: KinematicChain("hand", "joints", (ChainJoint("a", (0, 0, 0), kind="fixed"),)), "moving joints none"),
        (lambda: dataclasses.replace(REACH, chains=(CHAIN, CHAIN)), "two chains of one end effector"),
        (lambda: dataclasses.replace(ARM, chains=(CHAIN,)), "its end effectors are 'tool'"),
        (lambda: dataclasses.replace(REACH, chains=(dataclasses.replace(CHAIN, component="x"),)), "moved by component 'x'"),
        (lambda: dataclasses.replace(REACH, chains=(chain_of(ChainJoint("c", (0, 0, 0))),)), "joint 'c'"),
        (lambda: dataclasses.replace(REACH, chains=(chain_of(ChainJoint("a", (0, 0, 0), kind="prismatic")),)), "unit 'rad'"),
    ],
)
def test_chains_that_are_none_are_refused(make, message):
    with pytest.raises(SpecError, match=message):
        make()


def test_chains_are_stored_and_make_no_other_robot():
    stored = RobotSpec.from_json(REACH.to_json())
    assert stored.chains == (CHAIN,) and dataclasses.replace(REACH, chains=()) == REACH
