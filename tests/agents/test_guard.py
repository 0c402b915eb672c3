"""What a guard lets through keeps the limits of the robot, whatever it is given; what is safe comes through to the bit."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verbot.agents import ChunkAgent, Guard, GuardConfig, GuardedAgent
from verbot.agents.guard_events import RULES, GuardEvent, count_rules
from verbot.contracts import Agent, expert_of
from verbot.envs import make_env
from verbot.errors import ConfigError, RobotError
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import (
    ActionChunk,
    Component,
    EndEffector,
    MotionLimits,
    Observation,
    RobotSpec,
    Workspace,
)

RATE_HZ = 20.0
JOINTS = Component("joints", "joint_position", ("a", "b"), "rad", "base", (-2.0, -2.0), (2.0, 2.0))
LIMITS = MotionLimits(
    "joints", (-1.0, -0.5), (1.0, 1.5), step=(0.1, 1.0), velocity=(9.0, 1.0), acceleration=(4.0, 30.0), jerk=(200.0, 500.0)
)
ARM = RobotSpec("arm", RATE_HZ, (), (JOINTS,), (JOINTS,), limits=(LIMITS,))

PLACE = Component("place", "position", ("x", "y", "z"), "m", "base", (-2.0,) * 3, (2.0,) * 3)
MOVE = Component("move", "position_delta", ("x", "y", "z"), "m", "base", (-0.05,) * 3, (0.05,) * 3)
GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
MOVE_LIMITS = MotionLimits("move", (0.0,) * 3, (0.5,) * 3, velocity=(0.8,) * 3, acceleration=(3.0,) * 3, lead=(0.4,) * 3)
CRANE = RobotSpec(
    "crane", RATE_HZ, (), (PLACE, GRIPPER), (MOVE, GRIPPER), limits=(MOVE_LIMITS,),
    workspaces=(Workspace("tool", (-1.0, -1.0, 0.1), (1.0, 1.0, 1.0)),),
)  # fmt: skip
SLIDE = Component("speed", "joint_velocity", ("a", "b"), "rad/s", "base", (-2.0, -2.0), (2.0, 2.0))
SLIDER = RobotSpec(
    "slider", RATE_HZ, (), (JOINTS,), (SLIDE,),
    limits=(MotionLimits("speed", (-1.0, -1.0), (1.0, 1.0), acceleration=(5.0, 20.0), jerk=(400.0, 2000.0)),),
)  # fmt: skip


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def observation(state, step=0, rate_hz=RATE_HZ):
    return Observation({}, np.array(state, np.float32), time_s=step / rate_hz)


class Plant:
    """Follows its commands exactly, and checks each of them against the limits, in its own arithmetic."""

    def __init__(self, spec, state):
        self.spec, self.state = spec, np.array(state, np.float32)
        self.limits, self.kind, self.size = spec.limits[0], spec.action[0].kind, spec.action[0].size
        self.target, self.velocity = self.state[: self.size].astype(float), np.zeros(self.size)

    def execute(self, action):
        assert action.dtype == np.float32 and np.isfinite(action).all()
        moved, rate, limits = action[: self.size].astype(float), self.spec.rate_hz, self.limits
        target = {"joint_position": moved, "position_delta": self.target + moved, "joint_velocity": self.target + moved / rate}[
            self.kind
        ]
        velocity = (target - self.target) * rate
        change = velocity - self.velocity
        near = 2e-5  # rounding to float32, times the rate
        assert (target >= np.array(limits.low) - 1e-6).all() and (target <= np.array(limits.high) + 1e-6).all()
        for name, value in (
            ("step", target - self.target), ("velocity", velocity), ("acceleration", change * rate),
        ):  # fmt: skip
            if getattr(limits, name) is not None:
                assert (np.abs(value) <= np.array(getattr(limits, name)) + near * rate).all(), (name, value)
        self.target, self.velocity = target, velocity
        self.state[: self.size] = target


NUMBERS = st.one_of(
    st.floats(-3, 3, width=32), st.sampled_from([0.0, math.nan, math.inf, -math.inf, 1e30, -1e30, 0.05, -0.05, 1.0, -1.0])
)


@settings(max_examples=60, deadline=None)
@given(
    which=st.sampled_from([ARM, CRANE, SLIDER]),
    start=st.lists(st.floats(0, 1), min_size=4, max_size=4),
    requests=st.lists(st.lists(NUMBERS, min_size=4, max_size=4), min_size=5, max_size=40),
    repeat=st.integers(1, 8),
)
def test_no_sequence_of_actions_leads_out_of_the_limits(which, start, requests, repeat):
    limits, size = which.limits[0], which.state_size
    low, high = (np.resize([*edge, value], size) for edge, value in ((limits.low, 0.0), (limits.high, 1.0)))
    plant = Plant(which, (low + np.array(start)[:size] * (high - low)).astype(np.float32))
    guard = Guard(which, GuardConfig(patience=10**6, latch_after=10**6))
    for step, request in enumerate(np.repeat(np.array(requests, np.float32), repeat, 0)):
        result = guard.apply(request[: which.action_size], observation(plant.state, step))
        plant.execute(result.action)


def drive(guard, plant, requests, start=0):
    results = []
    for step, request in enumerate(requests, start):
        results.append(guard.apply(np.array(request, np.float32), observation(plant.state, step)))
        plant.execute(results[-1].action)
    return results


def test_jerk_is_kept_where_the_box_and_the_velocity_leave_a_choice():
    limits = MotionLimits("joints", velocity=(50.0, 50.0), acceleration=(4.0, 30.0), jerk=(100.0, 300.0))
    wide = dataclasses.replace(JOINTS, low=(-100.0, -100.0), high=(100.0, 100.0))
    spec = dataclasses.replace(ARM, state=(wide,), action=(wide,), limits=(limits,))
    guard, state = Guard(spec, GuardConfig(patience=10**6)), np.zeros(2, np.float32)
    places = [state] * 3
    for step, goal in enumerate(np.random.default_rng(0).uniform(-50, 50, (40, 2)).repeat(5, 0)):
        places.append(guard.apply(goal.astype(np.float32), observation(places[-1], step)).action)
    jerk = np.abs(np.diff(np.array(places, float), 3, axis=0)) * RATE_HZ**3
    assert (jerk.max(0) <= np.array(limits.jerk) * 1.001 + 0.1).all() and (jerk.max(0) > np.array(limits.jerk) * 0.9).all()


def test_what_is_safe_comes_through_to_the_bit():
    guard, plant = Guard(ARM), Plant(ARM, (0.3, 0.2))
    for step in range(400):
        swing = np.array([0.3 + 0.2 * math.sin(step / 30), 0.2 + 0.3 * math.sin(step / 40)], np.float32)
        result = guard.apply(swing, observation(plant.state, step))
        assert result.action is swing and not result.events, step
        plant.execute(result.action)


def test_an_action_exactly_at_its_limit_is_within_it():
    spec = dataclasses.replace(CRANE, limits=(MotionLimits("move", step=(0.05,) * 3),), workspaces=())
    guard = Guard(spec)
    for step in range(20):
        edge = np.array([0.05, -0.05, 0.05, 1.0], np.float32)
        assert guard.apply(edge, observation((0, 0, 0, 0), step)).action is edge


@pytest.mark.parametrize(
    ("request_", "rule", "axis"),
    [
        ((0.05, 0.0), "", None),
        ((1.7, 0.0), "position", "a"),
        ((0.5, 0.0), "step", "a"),
        ((0.0, 0.9), "velocity", "b"),
        ((0.06, 0.0), "acceleration", "a"),
        ((0.0, 0.045), "jerk", "b"),
    ],
)
def test_each_rule_is_named_with_the_axis_that_broke_it(request_, rule, axis):
    limits = dataclasses.replace(LIMITS, acceleration=(22.0, 30.0), jerk=(2000.0, 300.0), velocity=(9.0, 1.0))
    guard = Guard(dataclasses.replace(ARM, limits=(limits,)))
    result = guard.apply(np.array(request_, np.float32), observation((0.0, 0.0)))
    assert [(e.rule, e.component, e.axis) for e in result.events] == ([(rule, "joints", axis)] if rule else [])
    if rule:
        index = JOINTS.axes.index(axis)
        assert (result.events[0].requested, result.events[0].given) == (
            pytest.approx(request_[index]), pytest.approx(float(result.action[index]))
        )  # fmt: skip


def test_the_axes_of_a_component_slow_down_together():
    spec = dataclasses.replace(ARM, limits=(MotionLimits("joints", step=(0.1, 0.1)),))
    result = Guard(spec).apply(np.array([0.4, -0.2], np.float32), observation((0.0, 0.0)))
    np.testing.assert_allclose(result.action, (0.1, -0.05), atol=1e-6)


def test_it_brakes_before_the_edge_of_the_box():
    guard, plant = Guard(ARM, GuardConfig(patience=10**6)), Plant(ARM, (0.0, 0.0))
    drive(guard, plant, [(2.0, 0.0)] * 60)
    assert plant.state[0] == pytest.approx(1.0, abs=1e-6) and plant.velocity[0] == pytest.approx(0, abs=1e-4)


def test_an_arm_that_begins_outside_its_box_only_comes_back():
    guard = Guard(ARM, GuardConfig(patience=10**6))
    state = np.array([1.4, 0.0], np.float32)
    places = [1.4]
    for step in range(40):
        state = guard.apply(np.array([1.9, 0.0], np.float32), observation(state, step)).action
        places.append(float(state[0]))
    inside = next(i for i, place in enumerate(places) if place <= 1.0)
    assert np.diff(places[:inside]).max() <= 0 and np.diff(places).min() >= -0.1001
    assert max(places[inside:]) <= 1.0 + 1e-6 and places[-1] == pytest.approx(1.0, abs=1e-6)


def test_a_blocked_arm_does_not_let_its_target_run_away():
    guard = Guard(CRANE, GuardConfig(patience=10**6))
    push = np.array([0.05, 0, 0, 1], np.float32)
    for step in range(40):
        guard.apply(push, observation((0.05, 0.2, 0.3, 1), step))  # never moves
    assert guard._limiter.axes[0].target == pytest.approx(0.45, abs=1e-6)
    limits = dataclasses.replace(LIMITS, lead=(0.2, 0.2))
    guard = Guard(dataclasses.replace(ARM, limits=(limits,)), GuardConfig(patience=10**6))
    for step in range(40):
        result = guard.apply(np.array([0.9, 0], np.float32), observation((0.0, 0.0), step))
    assert result.action[0] == pytest.approx(0.2, abs=1e-5) and result.events[0].rule == "lead"


@pytest.mark.parametrize(
    "bad", [np.array([np.nan, 0], np.float32), np.array([0, np.inf]), np.zeros(3, np.float32), np.zeros((1, 2), np.float32),
            None, [0.0, 0.0], "stop", np.array(["a", "b"]), np.array([True, False])],
)  # fmt: skip
def test_what_is_no_action_brakes_the_robot_and_then_latches(bad):
    guard, plant = Guard(ARM), Plant(ARM, (0.0, 0.0))
    drive(guard, plant, [(2.0, 0.0)] * 10)
    speed = plant.velocity[0]
    for step in range(10, 13):
        result = guard.apply(bad, observation(plant.state, step))
        assert result.held in ("finite", "shape") and result.events[0].rule == result.held
        plant.execute(result.action)
    assert plant.velocity[0] < speed - 0.3
    assert "3 severe events" in guard.latched
    guard.reset()
    result = guard.apply(np.array(plant.state), observation(plant.state, 13))
    assert result.held == "latch" and guard.latched
    guard.reset_latch()
    assert not guard.apply(np.array(plant.state), observation(plant.state, 14)).held


def test_stale_and_out_of_order_observations_hold_until_a_fresh_one():
    clock = Clock()
    guard = Guard(dataclasses.replace(ARM, max_age_s=0.5), clock=clock)
    still = np.zeros(2, np.float32)
    assert not guard.apply(still, observation((0, 0), 4), age_s=0.4).held
    assert guard.apply(still, observation((0, 0), 5), age_s=0.6).held == "age"
    assert guard.apply(still, observation((0, 0), 5), age_s=math.nan).held == "age"
    assert guard.apply(still, observation((0, 0), 3)).held == "order"
    clock.now_s = 0.4
    assert not guard.apply(still, observation((0, 0), 5)).held
    clock.now_s = 1.0  # the clock of the observation stands still
    assert guard.apply(still, observation((0, 0), 5)).held == "age"
    assert not guard.apply(still, observation((0, 0), 6)).held
    assert guard.apply(still, dataclasses.replace(observation((0, 0)), time_s=math.nan)).held == "order"
    slow = Guard(ARM, GuardConfig(deadline_s=0.1))
    assert slow.apply(still, observation((0, 0)), taken_s=0.2).held == "deadline" and not slow.latched


def test_too_many_changed_actions_in_a_row_hold_for_a_while():
    clock = Clock()
    guard, plant = Guard(ARM, GuardConfig(patience=3, hold_s=0.3, latch_after=2), clock=clock), Plant(ARM, (0, 0))
    results = []
    for step in range(14):
        clock.now_s = step / RATE_HZ
        results += drive(guard, plant, [(2.0, 2.0)], step)
    assert [r.held for r in results] == [""] * 3 + ["repeated"] * 5 + [""] * 3 + ["latch"] * 3
    assert results[2].events[-1].rule == "repeated" and "2 severe events" in guard.latched


def test_a_state_that_is_not_finite_moves_nothing():
    guard = Guard(ARM)
    result = guard.apply(np.zeros(2, np.float32), observation((math.nan, 0)))
    assert result.action is None and result.held == "finite"
    guard.apply(np.zeros(2, np.float32), observation((0, 0), 1))
    np.testing.assert_array_equal(guard.apply(np.zeros(2, np.float32), observation((math.nan, 0), 2)).action, (0, 0))


BARE = dataclasses.replace(ARM, limits=())


def test_a_robot_without_limits_is_refused_until_its_owner_says_so():
    with pytest.raises(ConfigError, match="robot 'arm' has no motion limits for 'joints': .*--unguarded"):
        Guard(BARE)
    guard = Guard(BARE, unguarded=True)
    assert guard.apply(np.array([9.0, 0.0], np.float32), observation((0, 0))).action.tolist() == [2.0, 0.0]
    assert guard.apply(np.array([np.nan, 0.0], np.float32), observation((0, 0), 1)).held == "finite"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"limits": (MotionLimits("joints", jerk=(1.0, 1.0)),)}, "neither step nor velocity"),
        ({"limits": (MotionLimits("joints", (3.0, 3.0), (4.0, 4.0), step=(1.0, 1.0)),)}, "have nothing in common"),
        ({"groups": (EndEffector("hand", ("joints",), ("joints",)),),
          "workspaces": (Workspace("hand", (0.0,) * 3, (1.0,) * 3),)}, "no KinematicChain"),
    ],
)  # fmt: skip
def test_limits_that_cannot_be_kept_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        Guard(dataclasses.replace(ARM, **change))


def test_a_box_of_what_nothing_measures_and_a_short_lead_are_refused():
    with pytest.raises(ConfigError, match="no state component measures"):
        Guard(dataclasses.replace(CRANE, state=(GRIPPER,), workspaces=()))
    with pytest.raises(ConfigError, match="the distance that it needs to stop"):
        Guard(dataclasses.replace(CRANE, limits=(dataclasses.replace(MOVE_LIMITS, lead=(0.01,) * 3),)))


QUATERNION = Component("turn", "quaternion", ("w", "x", "y", "z"), "1", "base", (-1.0,) * 4, (1.0,) * 4)
TURNER = RobotSpec("turner", RATE_HZ, (), (QUATERNION,), (QUATERNION,), limits=(MotionLimits("turn", step=(0.1,) * 4),))


def about_z(angle, length=1.0):
    return np.array([math.cos(angle / 2), 0, 0, math.sin(angle / 2)], np.float32) * np.float32(length)


def test_an_orientation_turns_no_faster_than_its_limit_the_short_way_round():
    guard = Guard(TURNER)
    near = -about_z(0.09)
    assert guard.apply(near, observation((1, 0, 0, 0))).action is near
    far = guard.apply(about_z(1.0, 2.0), observation((1, 0, 0, 0), 1))
    np.testing.assert_allclose(np.abs(far.action), about_z(0.19), atol=1e-6)
    assert far.events[0].rule == "step"
    zero = guard.apply(np.zeros(4, np.float32), observation((1, 0, 0, 0), 2)).action
    np.testing.assert_allclose(np.abs(zero), about_z(0.19), atol=1e-6)


class Constant:
    spec = ARM

    def __init__(self, value=(0.0, 0.0)):
        self.value, self.asked = value, 0

    def predict(self, observations):
        self.asked += len(observations)
        return [ActionChunk(np.tile(np.array(self.value, np.float32), (8, 1)), o.time_s) for o in observations]


def test_a_guarded_agent_is_an_agent_and_asks_nobody_while_it_is_latched():
    policy = Constant((0.01, 0.0))
    agent = GuardedAgent(ChunkAgent(policy, 4), Guard(ARM))
    assert isinstance(agent, Agent)
    agent.reset("go")
    assert agent.act(observation((0, 0))).tolist() == pytest.approx([0.01, 0.0]) and agent.result.events == ()
    agent.guard.latch("a person pressed stop")
    agent.act(observation((0, 0), 1))
    agent.act(observation((0, 0), 2))
    assert policy.asked == 1 and agent.result.held == "latch" and agent.result.events[0].requested == "a person pressed stop"
    agent.reset("go")
    assert agent.guard.latched
    agent.guard.reset_latch()
    agent.act(observation((0, 0), 3))
    assert policy.asked == 2  # what was left of the chunk has been dropped


def test_a_robot_without_a_known_hold_is_to_be_stopped():
    choice = Component("choice", "discrete", ("c",), "1", "robot", (0.0,), (6.0,))
    spec = RobotSpec("rover", 5.0, (), (), (choice,), limits=(MotionLimits("choice", (0.0,), (6.0,)),))

    class Broken:
        def reset(self, instruction):
            pass

        def act(self, observation):
            return np.array([np.nan], np.float32)

    with pytest.raises(RobotError, match="must be held \\(finite\\); no hold action"):
        GuardedAgent(Broken(), Guard(spec)).act(observation(()))


def test_events_are_plain_data():
    event = GuardEvent("finite", "", None, math.nan, "hold", 0.5)
    assert event.to_json() == {
        "rule": "finite",
        "component": "",
        "axis": None,
        "requested": "nan",
        "given": "hold",
        "time_s": 0.5,
    }
    assert count_rules([event, event]) == {"finite": 2} and set(count_rules([])) <= set(RULES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.rule = "step"
    with pytest.raises(ConfigError, match="patience"):
        GuardConfig(patience=0)
    with pytest.raises(ConfigError, match="deadline_s is 0"):
        GuardConfig(deadline_s=0)


def test_the_workspace_of_a_commanded_position_is_kept():
    crane, place = Guard(CRANE, GuardConfig(patience=10**6)), Plant(CRANE, (0.2, 0.2, 0.2, 1.0))
    rules = {event.rule for result in drive(crane, place, [(0, 0, -0.05, 1)] * 20) for event in result.events}
    assert "workspace" in rules and place.target[2] == pytest.approx(0.1, abs=1e-6)


@pytest.mark.parametrize(("suite", "task"), [("tabletop-starter", "put"), ("tabletop-other-robot", "pick"), ("navigation", "go")])
def test_experts_are_never_changed(suite, task):
    env = make_env(suite, render_cameras=False)
    episode, agent = EpisodeRunner(env, {"task": task}), GuardedAgent(expert_of(env), Guard(env.robot_spec))
    agent.reset(episode.instruction)
    for _ in episode.run(agent):
        assert not agent.result.events
    assert episode.info["success"]
    env.close()
