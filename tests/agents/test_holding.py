"""A robot is held while its policy does not answer, and moves again on a fresh observation only."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from verbot.agents import ChunkAgent, EnsembleAgent, HoldAction, HoldAgent
from verbot.contracts import Agent, HoldingAgent, InterruptibleAgent
from verbot.errors import ConfigError, ConnectionLostError, SpecError, WireError
from verbot.spec import ActionChunk, Component, Observation, RobotSpec


def component(name: str, kind: str, size: int = 1, low: float = -5.0, frame: str = "base", axes: str = "xyzw") -> Component:
    return Component(name, kind, tuple(axes[:size]), "1", frame, (low,) * size, (5.0,) * size)


GRIPPER = Component("gripper", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
SPEC = RobotSpec("arm", 50.0, (), (component("x", "position", 3), GRIPPER), (component("move", "position_delta", 3), GRIPPER))


class Fallible:
    """Its actions hold the time of the observation; `fault` is raised, or waited for."""

    spec = SPEC

    def __init__(self) -> None:
        self.fault: Exception | threading.Event | None = None
        self.times: list[float] = []

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        (observation,) = observations
        self.times.append(observation.time_s)
        if isinstance(self.fault, threading.Event):
            self.fault.wait(5)
        elif self.fault is not None:
            raise self.fault
        values = np.full((4, 4), observation.time_s, np.float32)
        values[:, 3] = 0.25
        return [ActionChunk(values, observation.time_s)]


def at(time_s: float, opening: float = 1.0) -> Observation:
    return Observation({}, np.array([1, 2, 3, opening], np.float32), "", time_s=time_s)


def holding(policy: Fallible, make: Callable[..., ChunkAgent | EnsembleAgent] = ChunkAgent, timeout_s: float = 5.0) -> HoldAgent:
    agent = HoldAgent(make(policy), timeout_s)
    agent.reset("go")
    return agent


@pytest.mark.parametrize("make", [ChunkAgent, EnsembleAgent])
def test_a_lost_policy_holds_the_robot_and_a_fresh_observation_moves_it(make: Callable[..., ChunkAgent | EnsembleAgent]) -> None:
    agent = holding(policy := Fallible(), make)
    assert isinstance(agent, Agent)
    policy.fault = ConnectionLostError("the server is gone")
    assert agent.act(at(0.02)).tolist() == [0, 0, 0, 1], "before the first action the gripper keeps its measured opening"
    policy.fault = None
    assert agent.act(at(0.04)).tolist() == pytest.approx([0.04] * 3 + [0.25])
    policy.fault = ConnectionLostError("the server is gone")
    for _ in range(3):
        assert agent.act(at(0.06)).tolist() == [0, 0, 0, 0.25], "and afterwards what it was commanded last"
    assert (agent.holds, agent.reason) == (4, "the server is gone")
    policy.fault = None
    assert agent.act(at(0.10))[0] == pytest.approx(0.10), "an ensemble does not average what was predicted before the hold"
    assert (agent.holds, agent.reason) == (4, "")
    agent.reset("go")
    assert agent.holds == 0


def test_a_guard_that_holds_the_robot_makes_it_drop_its_actions_and_an_answer_that_is_late() -> None:
    agent = HoldAgent(ChunkAgent(policy := Fallible(), execute=4), 5.0)
    agent.reset("go")
    assert isinstance(agent, InterruptibleAgent) and isinstance(agent, HoldingAgent)
    agent.act(at(0.02))
    agent.interrupt()  # as `GuardedAgent` does
    assert agent.act(at(0.04))[0] == pytest.approx(0.04) and policy.times == [0.02, 0.04]
    policy.fault, agent.timeout_s = threading.Event(), 1e-6
    agent.interrupt()
    assert "did not answer" in (agent.act(at(0.06)), agent.reason)[1]
    agent.interrupt()
    policy.fault.set()
    assert agent._pending is not None and agent._pending.done.wait(10)
    policy.fault, agent.timeout_s = None, 5.0
    assert agent.act(at(0.08))[0] == pytest.approx(0.08) and policy.times == [0.02, 0.04, 0.06, 0.08]


def test_a_late_answer_is_dropped_and_no_step_takes_longer_than_its_time_limit() -> None:
    agent = holding(policy := Fallible(), timeout_s=0.05)
    policy.fault = wait = threading.Event()
    start = time.monotonic()
    assert agent.act(at(0.0)).tolist() == [0, 0, 0, 1]
    assert "within 0.05 s" in agent.reason
    for step in range(1, 50):
        assert agent.act(at(step / 50)).tolist() == [0, 0, 0, 1]
    assert time.monotonic() - start < 2.0
    assert policy.times == [0.0], "one prediction at a time"
    policy.fault = None
    wait.set()
    agent.timeout_s, limit = 5.0, time.monotonic() + 5
    while agent.act(at(9.0)).tolist() == [0, 0, 0, 1] and time.monotonic() < limit:
        time.sleep(0.01)
    assert agent._last is not None and agent._last[0] == 9.0
    assert policy.times == [0.0, 9.0]


def late_policy(steps: int) -> tuple[HoldAgent, list[float]]:
    """Its predictions take `steps` periods; the actions of 30 steps, each the time of its row plus 1, or 0 while it is held."""
    policy = Fallible()
    gate = threading.Event()

    def predict(observations: Sequence[Observation]) -> list[ActionChunk]:
        (seen,) = observations
        assert gate.wait(5)
        gate.clear()
        values = np.zeros((8, 4), np.float32)
        values[:, 0] = 1 + seen.time_s + np.arange(8) / SPEC.rate_hz
        return [ActionChunk(values, seen.time_s)]

    policy.predict = predict  # type: ignore[method-assign]
    agent = HoldAgent(ChunkAgent(policy, execute=8), timeout_s=0.002)
    agent.reset("go")
    actions, age = [], 0
    for step in range(30):
        pending = agent._pending
        if pending is not None and (age := age + 1) >= steps:
            gate.set()
            assert pending.done.wait(5)
            age = 0
        actions.append(float(agent.act(at(step / SPEC.rate_hz))[0]))
    gate.set()
    return agent, actions


def test_a_policy_slower_than_a_period_acts_with_the_rows_that_are_still_due() -> None:
    _, actions = late_policy(2)
    moved = {step: action for step, action in enumerate(actions) if action}
    assert len(moved) == 22
    assert all(action == pytest.approx(1 + step / SPEC.rate_hz) for step, action in moved.items()), "no row is executed late"
    agent, actions = late_policy(9)
    assert not any(actions) and agent.holds == 30


def test_a_late_chunk_of_an_observation_without_a_clock_is_dropped() -> None:
    agent = holding(policy := Fallible(), timeout_s=0.02)
    policy.fault = wait = threading.Event()
    agent.act(at(0.0))
    pending = agent._pending
    wait.set()
    assert pending is not None and pending.done.wait(5)
    agent.timeout_s = 5.0
    agent.act(at(0.0))
    assert policy.times == [0.0, 0.0]


def test_other_errors_are_raised_also_late_ones_but_not_those_of_an_episode_before() -> None:
    agent = holding(policy := Fallible())
    policy.fault = WireError("a chunk that is not finite")
    with pytest.raises(WireError, match="not finite"):
        agent.act(at(0.0))

    class Late(Fallible):
        def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
            wait.wait(5)
            raise WireError("not finite")

    for ends in (False, True):
        wait = threading.Event()
        agent = holding(Late(), timeout_s=0.02)
        agent.act(at(0.0))
        pending = agent._pending
        assert pending is not None
        if ends:
            agent.reset("again")
        wait.set()
        assert pending.done.wait(5)
        agent.timeout_s = 5.0
        if ends:
            made = ActionChunk(np.ones((1, 4), np.float32), 0.1)
            agent._agent.policy.predict = lambda seen, chunk=made: [chunk]  # type: ignore[method-assign, misc]
            assert agent.act(at(0.1)).tolist() == [1, 1, 1, 1]
        else:
            with pytest.raises(WireError, match="not finite"):
                agent.act(at(0.1))


def test_targets_stay_where_they_were_measured_when_the_hold_began() -> None:
    spec = RobotSpec(
        "two arms", 50.0, (),
        (component("left", "joint_position", 2), component("b", "joint_position", 2, axes="ab"), component("q", "quaternion", 4)),
        (component("a", "joint_position", 2, axes="ab"), component("left", "joint_position", 2, -1.0),
         component("r", "quaternion", 4), component("spin", "velocity", 2)),
    )  # fmt: skip
    hold = HoldAction(spec)
    state = np.array([-2, 2, 3, 4, 1, 0, 0, 0], np.float32)
    assert hold.of(state, None).tolist() == [3, 4, -1, 2, 1, 0, 0, 0, 0, 0], "by name, by axes, or the only one; within the range"
    with pytest.raises(SpecError, match="cannot be held: its state is"):
        hold.of(np.full(8, np.nan, np.float32), None)
    policy = Fallible()
    policy.spec = spec
    policy.fault = ConnectionLostError("gone")
    agent = holding(policy)
    held = [agent.act(Observation({}, state - sink, "", time_s=sink)).tolist() for sink in (0.0, 0.1, 0.2)]
    assert held[0] == held[1] == held[2]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (component("choice", "discrete"), r"component 'choice' \(discrete\) of the action of robot 'arm'; known are"),
        (component("free", "other"), r"'free' \(other\)"),
        (component("q", "quaternion", 4), "no single state component measures it"),
        (component("x", "position", 3, frame="tool"), "no single state component measures it"),
        (component("speed", "velocity", low=0.5), "zero is outside its range"),
    ],
)
def test_a_robot_without_a_known_hold_is_refused(action: Component, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        HoldAction(dataclasses.replace(SPEC, action=(action,)))


def test_wrong_time_limits_teach() -> None:
    assert HoldAgent(ChunkAgent(Fallible())).timeout_s == 0.02
    for timeout_s in (0.0, float("nan"), -1.0):
        with pytest.raises(ConfigError, match="expected seconds, more than 0"):
            HoldAgent(ChunkAgent(Fallible()), timeout_s)
