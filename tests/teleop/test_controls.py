"""The mapping from keys and gamepad states to an action."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest

from verbot.contracts import Agent
from verbot.envs.tabletop.env import robot_spec
from verbot.errors import ConfigError, WireError
from verbot.spec import Component, RobotSpec
from verbot.teleop.controls import (
    DEAD_ZONE,
    DIGITS,
    MOTIONS,
    SPEEDS,
    Basis,
    MotionCommand,
    Teleoperator,
    action_of,
    basis_of,
    motion_of,
)
from verbot.teleop.inputs import MAX_BYTES, Inputs, parse

SPEC = robot_spec(32)
FRONT = Basis(np.array([0.0, 1.0, 0.0]), np.array([-1.0, 0.0, 0.0]))
OPPOSITE = [
    ("KeyW", "KeyS"),
    ("KeyA", "KeyD"),
    ("KeyR", "KeyF"),
    ("KeyQ", "KeyE"),
    ("ArrowLeft", "ArrowRight"),
    ("ArrowUp", "ArrowDown"),
]


def act(*held, axes=(), buttons=(), speed=1.0, closed=False):
    return action_of(SPEC, motion_of(frozenset(held), axes, buttons), ["tool"] if closed else [], speed, FRONT)


@pytest.mark.parametrize("speed", SPEEDS.values())
@pytest.mark.parametrize("closed", [False, True])
def test_no_key_is_no_motion(speed, closed):
    assert act(speed=speed, closed=closed).tolist() == [0, 0, 0, 0, 0, 0, 0 if closed else 1]
    drift = DEAD_ZONE * 0.99
    assert act(axes=[drift, -drift, drift, -drift], speed=speed)[:6].tolist() == [0] * 6


def test_opposite_keys_cancel():
    for pair in OPPOSITE:
        assert act(*pair).tolist() == act().tolist()
        assert not np.allclose(act(pair[0]), act())
        np.testing.assert_allclose(act(pair[0])[:6], -act(pair[1])[:6])
    assert {key for pair in OPPOSITE for key in pair} == set(MOTIONS)


def test_every_combination_stays_within_the_range():
    rng = np.random.default_rng(0)
    low, high = SPEC.action_low(), SPEC.action_high()
    for _ in range(300):
        held = frozenset(key for key in MOTIONS if rng.random() < 0.4)
        angle = rng.uniform(0, 2 * np.pi)
        basis = Basis(np.array([np.cos(angle), np.sin(angle), 0]), np.array([-np.sin(angle), np.cos(angle), 0]))
        motion = motion_of(held, rng.uniform(-1.5, 1.5, 4), rng.uniform(0, 1, 17))
        action = action_of(SPEC, motion, ["tool"] if rng.integers(2) else [], 1.0, basis)
        assert action.dtype == np.float32
        assert (action >= low).all() and (action <= high).all()


def test_directions_are_those_of_the_front_camera():
    from verbot.envs import make_env

    env = make_env("tabletop-starter", image_size=32, render_cameras=False)
    _, info = env.reset(seed=0)
    basis = basis_of(info["calibration"])
    np.testing.assert_allclose(basis.right, (0, 1, 0), atol=1e-6)
    np.testing.assert_allclose(basis.away, (-1, 0, 0), atol=1e-6)
    pose = np.reshape(info["calibration"]["front"]["extrinsics"], (4, 4))
    place = env.physics.tool_position.copy()
    for key, sign in (("KeyD", 1), ("KeyA", -1)):
        env.reset(seed=0)
        for _ in range(3):
            env.step(action_of(env.robot_spec, motion_of(frozenset({key})), (), 1.0, basis))
        seen = np.linalg.inv(pose) @ [*(env.physics.tool_position - place), 0]
        assert np.sign(seen[0]) == sign and abs(seen[0]) > 0.05
    env.close()
    assert act("KeyW")[0] < 0, "away from the person is −x"
    assert basis_of({}).right.tolist() == basis_of({"wrist": {"frame": "tool"}}).right.tolist() == [1, 0, 0]


def test_the_gripper_tilts_in_the_named_direction():
    """The top of the gripper, opposite the fingers, moves right, or away from the camera."""
    right, away = np.cross(act("ArrowRight")[3:6], (0, 0, 1)), np.cross(act("ArrowUp")[3:6], (0, 0, 1))
    assert right @ FRONT.right > 0.3 and abs(right @ FRONT.away) < 1e-6
    assert away @ FRONT.away > 0.3 and abs(away @ FRONT.right) < 1e-6
    assert act("KeyQ")[5] > 0, "counterclockwise seen from above"


def test_a_gamepad_does_what_keys_do():
    for key, axes in (("KeyD", [1]), ("KeyW", [0, -1]), ("KeyE", [0, 0, 1]), ("KeyR", [0, 0, 0, -1])):
        np.testing.assert_allclose(act(axes=axes), act(key))
    for key, number in (("ArrowUp", 12), ("ArrowDown", 13), ("ArrowLeft", 14), ("ArrowRight", 15)):
        np.testing.assert_allclose(act(buttons=[0] * number + [1]), act(key))
    half = act(axes=[DEAD_ZONE + (1 - DEAD_ZONE) / 2])
    np.testing.assert_allclose(half[:6], act("KeyD")[:6] / 2, rtol=1e-6)
    assert act("KeyD", axes=[-1])[:6].tolist() == [0] * 6


def test_speed_scales_motion_and_nothing_else():
    np.testing.assert_allclose(act("KeyW", "KeyQ", speed=0.2)[:6], 0.2 * act("KeyW", "KeyQ")[:6], rtol=1e-6)
    assert act("KeyW", speed=0.2)[6] == 1


def test_the_teleoperator_is_an_agent_that_remembers_gripper_and_speed():
    hand = Teleoperator(SPEC, FRONT)
    assert isinstance(hand, Agent)
    hand.reset("anything")
    opened = [hand.act()[6]]
    for _ in range(3):
        hand.switch_gripper()
        opened.append(hand.act()[6])
    assert opened == [1, 0, 1, 0]
    hand.motion = MotionCommand(right=1.0)
    reach = []
    for _ in range(3):
        reach.append(round(float(hand.act()[1]) / 0.05, 3))
        hand.switch_speed()
    assert reach == [0.5, 1.0, 0.2]
    hand.reset("the next")
    assert hand.act()[:6].tolist() == [0] * 6 and hand.act()[6] == 1


def test_of_two_arms_one_is_driven_and_the_other_keeps_still(two_arms):
    teleoperator = Teleoperator(two_arms)
    rest, left, right = np.zeros(14, np.float32), slice(0, 6), slice(7, 13)
    rest[[6, 13]] = 1
    assert teleoperator.act().tolist() == rest.tolist() and teleoperator.active == "left"
    teleoperator.motion = MotionCommand(right=1.0, turn=1.0)
    action = teleoperator.act()
    np.testing.assert_allclose(action[left], [0.025, 0, 0, 0, 0, 0.1], rtol=1e-6)
    assert not action[right].any()
    teleoperator.switch_gripper()
    teleoperator.switch_end_effector()
    action = teleoperator.act()
    np.testing.assert_allclose(action[right], [0.025, 0, 0, 0, 0, 0.1], rtol=1e-6)
    assert not action[left].any()
    assert (teleoperator.active, teleoperator.closed) == ("right", False)
    assert action[[6, 13]].tolist() == [0, 1], "the left gripper holds on"
    teleoperator.switch_end_effector()
    assert (teleoperator.active, teleoperator.closed) == ("left", True)


def test_a_takeover_keeps_every_gripper_as_it_is(two_arms):
    teleoperator, action = Teleoperator(two_arms), np.zeros(14, np.float32)
    action[13] = 1
    teleoperator.take_over(action)
    assert teleoperator.act()[[6, 13]].tolist() == [0, 1]
    teleoperator.reset()
    assert teleoperator.act()[[6, 13]].tolist() == [1, 1]


def test_a_discrete_action_is_chosen_by_a_digit():
    spec = RobotSpec("turtle", 5.0, (), (), (Component("go", "discrete", ("choice",), "1", "base", (0.0,), (3.0,)),))
    chosen = [float(action_of(spec, motion_of(frozenset({key})))[0]) for key in DIGITS]
    assert chosen == [0, 1, 2, 3, 3, 3, 3, 3, 3]
    assert action_of(spec, MotionCommand()).tolist() == [0]


def test_a_plane_and_an_uneven_range():
    plane = Component("move", "position_delta", ("y", "x"), "m", "base", (-0.1, -0.2), (0.3, 0.4))
    spec = RobotSpec("dot", 5.0, (), (), (plane,))
    for held, expected in (("KeyD", [0, 0.4]), ("KeyA", [0, -0.2]), ("KeyW", [0.3, 0]), ("KeyS", [-0.1, 0]), ("KeyR", [0, 0])):
        np.testing.assert_allclose(action_of(spec, motion_of(frozenset({held}))), expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("kind", "axes", "message"),
    [
        (
            "joint_position",
            ("a", "b"),
            "'arm' of robot 'odd' cannot be teleoperated: it is of kind 'joint_position'; supported are position_delta",
        ),
        ("position_delta", ("x", "w"), r"with axes x, w \(expected x, y, z\)"),
        ("gripper", ("left", "right"), r"of 2 numbers \(expected 1\)"),
    ],
)
def test_a_robot_that_cannot_be_driven_is_refused(kind, axes, message):
    spec = RobotSpec("odd", 5.0, (), (), (Component("arm", kind, axes, "1", "base", (-1.0, -1.0), (1.0, 1.0)),))
    with pytest.raises(ConfigError, match=message):
        Teleoperator(spec)


def message(**fields):
    return json.dumps(fields)


def living(gamepad=True):
    """Inputs whose page was heard just now, with a clock that stands still."""
    inputs = Inputs(gamepad, lambda: 0.0)
    inputs.beat()
    inputs.put(message(type="alive", at=0, beat=0))
    return inputs


def test_a_tap_between_two_control_steps_counts_once():
    inputs = living()
    inputs.put(message(type="key", code="KeyW", down=True))
    inputs.put(message(type="key", code="KeyW", down=False))
    assert inputs.take().motion == MotionCommand(away=1.0)
    assert not inputs.take().motion.moves


def test_buttons_act_when_pressed_and_not_while_held():
    inputs = living()
    for buttons in ([0], [1], [1], [0], [1]):
        inputs.put(message(type="pad", axes=[0, 0], buttons=buttons))
    assert [command.name for command in inputs.take().commands] == ["gripper", "gripper"]
    with pytest.raises(WireError, match="start with --by gamepad"):
        Inputs(gamepad=False).put(message(type="pad", axes=[], buttons=[]))


def test_commands_do_not_pile_up():
    inputs = living()
    inputs.put(message(type="key", code="KeyW", down=True))
    for _ in range(64):
        inputs.put(message(type="key", code="Space", down=True))
    with pytest.raises(WireError, match="more than 64 commands are waiting"):
        inputs.put(message(type="key", code="Space", down=True))
    inputs.put(message(type="key", code="KeyW", down=False))  # a key is released all the same
    assert len(inputs.take().commands) == 64
    inputs.put(message(type="key", code="Space", down=True))


def test_release_releases_keys_and_sticks():
    inputs = living()
    inputs.put(message(type="key", code="KeyW", down=True))
    inputs.put(message(type="pad", axes=[0, 0], buttons=[]))
    inputs.put(message(type="pad", axes=[1, 0], buttons=[]))
    assert inputs.take().motion == MotionCommand(right=1.0, away=1.0)
    inputs.put(message(type="release"))
    assert not inputs.take().motion.moves


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x00", "a message is JSON text; got 1 bytes of data"),
        ("{", "a message is JSON; this is not"),
        ("[" * 3000, "a message is JSON; this is not"),
        ('{"type": "pad", "axes": [NaN], "buttons": []}', "NaN is not a JSON number"),
        ("3", "a message is a map whose type is one of alive, key, pad, release, say, seen; got 3"),
        ('{"type": ["key"]}', "whose type is one of"),
        ('{"type": "eval", "code": "1"}', "got 'eval'"),
        ('{"type": "key", "code": "KeyW"}', "has exactly the fields code, down"),
        ('{"type": "key", "code": "KeyW", "down": 1}', "'down' of a message of type 'key' must be true or false; got 1"),
        ('{"type": "key", "code": "KeyZ", "down": true}', "must be a key with a function"),
        ('{"type": "pad", "axes": [2.0], "buttons": []}', "must be a list of at most 8 numbers"),
        ('{"type": "pad", "axes": [true], "buttons": []}', "must be a list of at most 8 numbers"),
        ('{"type": "pad", "axes": [], "buttons": [' + "0," * 32 + "0]}", "must be a list of at most 32 numbers"),
        ('{"type": "say", "text": "a\\nb", "add": false}', "must be one line of 1 to 300 printable characters"),
        ('{"type": "say", "text": "  ", "add": false}', "must be one line"),
        ('{"type": "say", "text": "' + "x" * 301 + '", "add": false}', "must be one line"),
        ('{"type": "alive", "at": -1, "beat": 0}', "must be the page's clock in milliseconds"),
        ('{"type": "alive", "at": 1, "beat": 0.5}', "must be the number of a beat"),
        ('{"type": "say", "text": "half an emoji \\ud83d", "add": false}', "must be one line of 1 to 300 printable characters"),
        ('{"type": "seen", "frame": -1}', "must be a frame's number"),
        ('{"type": "seen", "frame": true}', "must be a frame's number"),
        ('"' + "x" * MAX_BYTES + '"', "a message has at most 4096 bytes"),
    ],
)
def test_an_invalid_message_is_refused_and_changes_nothing(data, problem):
    inputs = Inputs()
    with pytest.raises(WireError, match=problem.replace("[", r"\[")):
        inputs.put(data)
    assert not inputs.take().motion.moves


def test_every_message_of_the_page_is_understood():
    for fields in itertools.chain(
        (
            {"type": "key", "code": code, "down": down}
            for code in (*MOTIONS, *DIGITS, "Space", "Escape")
            for down in (True, False)
        ),
        [{"type": "release"}, {"type": "say", "text": "go", "add": True}, {"type": "seen", "frame": 0}],
        [{"type": "pad", "axes": [0, -1.0, 0.5, 1.0], "buttons": [0, 1, 0.5]}],
    ):
        assert parse(json.dumps(fields)) == fields
