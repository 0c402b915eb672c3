"""A guard whose robot is not where it was commanded: pushed, blocked, or held by a latch."""

import dataclasses

import numpy as np
import pytest

from verbot.agents import Guard, GuardConfig
from verbot.spec import Component, MotionLimits, Observation, RobotSpec

PLACE = Component("place", "position", ("x", "y", "z"), "m", "base", (-2.0,) * 3, (2.0,) * 3)
MOVE = Component("move", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
MOVE_LIMITS = MotionLimits("move", (0.0,) * 3, (0.5,) * 3, velocity=(0.8,) * 3, acceleration=(3.0,) * 3, lead=(0.4,) * 3)
CRANE = RobotSpec("crane", 20.0, (), (PLACE, GRIPPER), (MOVE, GRIPPER), limits=(MOVE_LIMITS,))


def observation(place, step=0):
    return Observation({}, np.array((*place, 1.0), np.float32), time_s=step / CRANE.rate_hz)


def crane_events(guard, place, action, step=0):
    result = guard.apply(np.array([*action, 1.0], np.float32), observation(place, step))
    return result.action[:3].tolist(), [event.rule for event in result.events]


def test_a_robot_measured_outside_its_box_is_led_back_whatever_is_asked():
    """A robot that adds deltas to a target of its own may be pushed out, though nothing was commanded."""
    for asked in (0.0, 0.05, -0.002):
        guard = Guard(CRANE, GuardConfig(patience=10**6))
        crane_events(guard, (0.2, 0.2, 0.3), (0.0,) * 3)
        given, rules = crane_events(guard, (0.2, 0.51, 0.3), (0.0, asked, 0.0), 1)
        assert given == pytest.approx([0.0, -0.005, 0.0], abs=1e-6) and rules == ["position"]  # 1 cm beyond 0.5
    guard = Guard(CRANE)
    crane_events(guard, (0.2, 0.2, 0.3), (0.0,) * 3)
    given, rules = crane_events(guard, (-0.002, 0.2, 0.3), (0.003, 0.0, 0.0), 1)
    assert given == pytest.approx([0.003, 0.0, 0.0]) and not rules  # it comes back by itself, fast enough


def test_a_held_robot_stays_where_it_is_also_outside_its_box():
    guard = Guard(CRANE)
    crane_events(guard, (0.2, 0.2, 0.3), (0.0,) * 3)
    for step, held in enumerate(("", "a person pressed stop"), 1):
        if held:
            guard.latch(held)
        assert guard.hold(observation((0.2, 0.6, 0.3), step)).action[:3].tolist() == [0.0, 0.0, 0.0]
    assert crane_events(guard, (0.2, 0.6, 0.3), (0.0, 0.05, 0.0), 3) == ([0.0, 0.0, 0.0], ["latch"])


def test_a_robot_nearer_to_the_edge_than_its_target_has_the_room_that_it_has():
    guard = Guard(CRANE, GuardConfig(patience=10**6))
    for step in range(8):
        crane_events(guard, (0.2, 0.2, 0.3), (0.0, -0.002, 0.0), step)
    given, rules = crane_events(guard, (0.2, 0.495, 0.3), (0.0, 0.02, 0.0), 8)
    assert 0.0 < given[1] <= 0.005 and rules == ["position"]


def test_the_turn_of_a_robot_is_known_after_a_latch_but_not_in_another_episode():
    turn = Component("turn", "rotation_delta", ("z",), "rad", "base", (-0.5,), (0.5,))
    limits = MotionLimits("turn", (-1.0,), (1.0,), velocity=(10.0,))
    guard = Guard(dataclasses.replace(CRANE, action=(MOVE, turn, GRIPPER), limits=(MOVE_LIMITS, limits)))

    def turned(step):
        action = np.array([0, 0, 0, 0.5, 1], np.float32)
        return float(guard.apply(action, observation((0.2, 0.2, 0.3), step)).action[3])

    assert [turned(step) for step in range(3)] == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    guard.latch("a person pressed stop")
    guard.reset_latch()
    assert turned(3) == pytest.approx(0.0, abs=1e-6)
    guard.reset()
    assert turned(4) == pytest.approx(0.5)
