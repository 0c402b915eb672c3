"""Real-time chunking: what is executed while an answer is on its way, and after it."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from verbot.agents import ChunkAgent, Guard, GuardedAgent, HoldAgent, OverlappingAgent, RealTimeAgent
from verbot.agents.real_time import DelayEstimate
from verbot.contracts import CorrectingPolicy, HoldingAgent, InformedAgent, InterruptibleAgent, WaitingAgent, corrector_of
from verbot.errors import ConfigError, ConnectionLostError, PolicyError
from verbot.rollout.delay import Delay, DelayedAnswers, DelayedPolicy
from verbot.spec import ActionChunk, Component, FloatArray, MotionLimits, Observation, RobotSpec

STEP = Component("x", "position_delta", ("x",), "m", "base", (-1000.0,), (1000.0,))
GRIP = Component("grip", "gripper", ("opening",), "1", "tool", (0.0,), (1.0,))
SPEC = RobotSpec("line", 10.0, (), (STEP, GRIP), (STEP, GRIP))
ROWS = 10


class Numbered:
    """Row r of chunk number n is (100 n + r, 1), so that an action names its chunk and row. It continues as asked."""

    spec = SPEC

    def __init__(self, continuation: str = ""):
        self.continuation, self.queries = continuation, list[Observation]()

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.queries += observations
        rows = np.arange(ROWS, dtype=np.float32) + 100 * len(self.queries)
        return [ActionChunk(np.stack([rows, np.ones(ROWS, np.float32)], 1), observations[0].time_s)]


class Corrected(Numbered):
    """Its corrector adds a thousandth of the time of what it sees, and notes which row of which chunk it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.corrector, self.rows = self, list[tuple[float, int]]()

    def correct(self, observation: Observation, chunk: ActionChunk, row: int) -> FloatArray:
        self.rows.append((float(chunk.values[0, 0]), row))
        return chunk.values[row] + np.float32([observation.time_s / 1000, 0])


def observe(step: int) -> Observation:
    return Observation({}, np.zeros(2, np.float32), time_s=step / 10)


def drive(agent: RealTimeAgent, policy: Numbered, steps: int, delay: Delay, key: str = "") -> list[float]:
    """The first number of each action; the runner of an evaluation drives an agent in this order."""
    answers, actions = DelayedAnswers(delay, key), []
    agent.reset("go")
    for step in range(steps):
        for chunk in answers.arrived(step):
            agent.lost() if chunk is None else agent.receive(chunk)
        if (query := agent.next_query(observe(step))) is not None:
            answers.send(policy.predict([query])[0], step)
            for chunk in answers.arrived(step):
                agent.receive(chunk)
        actions.append(float(agent.act(observe(step))[0]))
    return actions


def made(method: str, execute: int = 3, estimate: int | None = None) -> tuple[RealTimeAgent, Numbered]:
    policy = Numbered(method if method in ("guided", "trained", "ahead") else "")
    return RealTimeAgent(DelayedPolicy(policy), execute, method, estimate), policy


def test_without_a_delay_it_is_a_chunk_agent() -> None:
    for method in ("naive", "hold", "aligned"):
        agent, chunked = RealTimeAgent(policy := Numbered(), 3, method), ChunkAgent(Numbered(), 3)
        assert isinstance(agent, WaitingAgent)
        chunked.reset("go")
        expected = [float(chunked.act(observe(step))[0]) for step in range(11)]
        assert drive(agent, policy, 11, Delay()) == expected
        alone = RealTimeAgent(Numbered(), 3, method)
        alone.reset("go")
        assert [float(alone.act(observe(step))[0]) for step in range(11)] == expected


@pytest.mark.parametrize(
    ("method", "actions"),
    [
        ("naive", [0, 0, 100, 101, 102, 200, 201, 202, 300]),  # each first row is two steps late
        ("aligned", [0, 0, 100, 101, 102, 202, 203, 204, 302]),  # the first chunk begins with row 0: the robot had not moved
        ("hold", [0, 0, 100, 101, 102, 0, 0, 200, 201]),
    ],
)
def test_what_is_executed_while_the_policy_predicts(method: str, actions: list[float]) -> None:
    agent, policy = made(method)
    assert drive(agent, policy, 9, Delay(2)) == actions
    assert agent.holds == actions.count(0)


def test_an_answer_that_comes_at_once_is_asked_for_every_third_step_and_a_slow_one_when_the_last_is_there() -> None:
    for delay, asked in ((0, [0, 3, 6, 9]), (2, [0, 3, 6, 9]), (4, [0, 4, 8])):
        agent, policy = made("aligned")
        drive(agent, policy, 11, Delay(delay))
        assert [round(query.time_s * 10) for query in policy.queries] == asked


def test_a_blend_passes_from_the_old_chunk_to_the_new_and_leaves_the_gripper_alone() -> None:
    agent, policy = made("blend", execute=4)
    found = drive(agent, policy, 8, Delay(2))
    assert found[2:6] == [100, 101, 102, 103]  # of the first chunk alone; from step 6 on two parts become one
    old, new = np.array([104, 105]), np.array([202, 203])
    np.testing.assert_allclose(found[6:8], [0.8, 0.6] * old + [0.2, 0.4] * new, rtol=1e-6)
    assert agent.act(observe(7))[1] == 1


def test_an_anchored_chunk_ends_where_it_would_have_without_the_delay_and_keeps_its_ranges() -> None:
    agent, policy = made("anchored", execute=4)
    found = drive(agent, policy, 13, Delay(2))
    assert found[2:6] == [100, 101, 102, 103]
    missing = (200 + 201) - (102 + 103)  # of what was skipped, in the place of which the old chunk was executed
    assert found[6:10] == [202 + missing, 203, 204, 205]
    far = dataclasses.replace(SPEC, action=(dataclasses.replace(STEP, high=(220.0,)), GRIP))
    policy.spec = far
    agent = RealTimeAgent(DelayedPolicy(policy), 4, "anchored")
    policy.queries.clear()
    assert drive(agent, policy, 9, Delay(2))[6:9] == [220, 220, 220]


def test_every_row_is_corrected_when_it_is_due_by_what_the_robot_sees_then() -> None:
    policy = Corrected()
    aligned = drive(made("aligned", execute=4)[0], Numbered(), 13, Delay(3))
    found = drive(RealTimeAgent(DelayedPolicy(policy), 4, "corrected"), policy, 13, Delay(3))
    expected = [action + (step / 10_000 if action else 0) for step, action in enumerate(aligned)]  # not while it is held
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
    assert policy.rows == [*((100, row) for row in range(4)), *((200, row) for row in range(3, 7)), (300, 3), (300, 4)]
    assert isinstance(policy, CorrectingPolicy) and corrector_of(DelayedPolicy(Numbered())) is None


def test_an_anchored_chunk_catches_up_with_what_a_guard_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, policy = made("anchored", execute=4)
    act, receive, seen = agent.act, agent.receive, list[ActionChunk]()

    def guarded(observation: Observation) -> np.ndarray:
        action = act(observation)
        if 102 <= action[0] <= 103:
            given = np.array([50, 1], np.float32)
            agent.executed(given)
            given[:] = -1  # the caller may fill its array again
        return action

    def kept(chunk: ActionChunk) -> None:
        seen.append(chunk)
        receive(chunk)

    monkeypatch.setattr(agent, "act", guarded)
    monkeypatch.setattr(agent, "receive", kept)
    assert drive(agent, policy, 10, Delay(2))[6:10] == [202 + (200 + 201) - (50 + 50), 203, 204, 205]
    assert seen[0].values[:, 0].tolist() == list(range(100, 110))  # a chunk may be shared


def test_the_guard_tells_an_agent_what_the_robot_was_given_through_the_ones_that_wrap_it() -> None:
    limits = (MotionLimits("x", step=(2.0,)), MotionLimits("grip", step=(1.0,)))
    given: list[list[float]] = []

    class Informed(ChunkAgent):
        def executed(self, action: np.ndarray) -> None:
            given.append(action.tolist())

    class Rows(Numbered):
        spec = dataclasses.replace(SPEC, limits=limits)

        def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
            return [ActionChunk(np.array([[1, 0], [9, 0], [2, 0]], np.float32), observations[0].time_s)]

    policy = Rows()
    agent = GuardedAgent(HoldAgent(Informed(policy, 3), 60.0), Guard(policy.spec, unguarded=True, clock=lambda: 0.0))
    agent.reset("go")
    assert [agent.act(observe(step)).tolist()[0] for step in range(3)] == [1, 2, 2] and given == [[2, 0]]
    assert isinstance(OverlappingAgent(made("aligned")[0]), InformedAgent)


def test_the_query_has_what_is_left_of_the_chunk_and_what_will_be_executed_anyway() -> None:
    agent, policy = made("guided")
    drive(agent, policy, 7, Delay(2))
    first, second, third = policy.queries[:3]
    assert first.planned is None and first.committed == 0
    assert second.planned is not None and second.planned[:, 0].tolist() == [101, 102, 103, 104, 105, 106, 107, 108, 109]
    assert second.committed == 2  # measured by the first answer
    second.check(SPEC)
    assert third.planned is not None and third.planned[0, 0] == 203
    agent, policy = made("trained")
    drive(agent, policy, 7, Delay(2))
    assert policy.queries[1].planned is not None and policy.queries[1].planned[:, 0].tolist() == [101, 102]


def test_a_wrong_estimate_moves_what_is_committed_and_not_what_is_executed() -> None:
    right, policy = made("guided")
    expected = drive(right, policy, 12, Delay(3))
    for estimate in (1, 5, 50):
        agent, policy = made("guided", estimate=estimate)
        assert drive(agent, policy, 12, Delay(3)) == expected
        planned = policy.queries[1].planned
        assert planned is not None and policy.queries[1].committed == min(estimate, len(planned))


def test_when_the_actions_run_out_the_robot_is_held_and_held_steps_are_not_skipped() -> None:
    agent, policy = made("aligned", execute=8)
    found = drive(agent, policy, 15, Delay(5))
    assert found[5:15] == [*range(100, 108), 205, 206]  # asked again at step 8, answered at step 13: 103 … 107 were executed
    agent, policy = made("aligned", execute=10)
    found = drive(agent, policy, 22, Delay(5))
    assert found[5:15] == [*range(100, 110)] and found[15] == 205
    agent, policy = made("aligned", execute=10, estimate=0)
    assert drive(agent, policy, 30, Delay(8))[8:] == [*range(100, 110), 208, 209, *[0] * 8, 300, 301]


def test_a_lost_answer_is_asked_for_again_and_the_old_chunk_goes_on() -> None:
    agent, policy = made("aligned")
    agent.reset("go")
    agent.next_query(observe(0))
    agent.receive(policy.predict([observe(0)])[0])
    assert [agent.act(observe(step))[0] for step in range(3)] == [100, 101, 102]
    assert agent.next_query(observe(3)) is not None and agent.next_query(observe(3)) is None
    assert agent.act(observe(3))[0] == 103
    agent.lost()
    assert agent.next_query(observe(4)) is not None
    assert agent.act(observe(4))[0] == 104


def test_after_an_interruption_the_robot_is_held_until_a_new_answer() -> None:
    agent, policy = made("aligned")
    drive(agent, policy, 4, Delay(1))
    agent.interrupt()
    assert agent.next_query(observe(4)) is not None
    assert agent.act(observe(4))[0] == 0
    assert agent.act(observe(4))[1] == 1  # a gripper keeps what it was commanded


def test_the_delay_is_the_most_of_the_last_answers() -> None:
    estimate = DelayEstimate()
    for steps in (7, *[2] * 10):
        estimate.add(steps)
    assert estimate.steps == 2


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no method 'guess' of real-time chunking; known are naive, hold, aligned"):
        RealTimeAgent(Numbered(), method="guess")
    with pytest.raises(ConfigError, match=r"does not continue planned actions by the method 'guided': it ignores them; use al"):
        RealTimeAgent(Numbered(), method="guided")
    with pytest.raises(ConfigError, match=r"by the method 'guided': it can only be trained"):
        RealTimeAgent(Numbered("trained"), method="guided")
    with pytest.raises(ConfigError, match=r"no corrector, which the method 'corrected' needs: `verbot corrector POLICY"):
        RealTimeAgent(DelayedPolicy(Numbered()), method="corrected")
    with pytest.raises(ConfigError, match=r"execute is 0"):
        RealTimeAgent(Numbered(), 0)
    with pytest.raises(ConfigError, match=r"delay_estimate is -1"):
        RealTimeAgent(Numbered(), delay_estimate=-1)
    with pytest.raises(PolicyError, match=r"predicts 10 actions at a time, but execute is 11"):
        RealTimeAgent(Numbered(), 11).act(observe(0))
    with pytest.raises(ConfigError, match=r"cannot wait for its policy"):
        ChunkAgent(DelayedPolicy(Numbered())).act(observe(0))
    with pytest.raises(ConfigError, match=r"deadline_s is 0"):
        OverlappingAgent(RealTimeAgent(Numbered()), 0)


class Slow(Numbered):
    """Answers when it is allowed to."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed, self.fault = threading.Semaphore(0), None

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        assert self.allowed.acquire(timeout=10)
        if self.fault is not None:
            raise self.fault
        return super().predict(observations)


def overlapping() -> tuple[OverlappingAgent, Slow, list[float], Callable[[], None]]:
    policy, now = Slow(), [0.0]
    agent = OverlappingAgent(RealTimeAgent(policy, 3), deadline_s=1.0, clock=lambda: now[0])
    agent.reset("go")

    def answer() -> None:
        pending = agent._pending
        assert pending is not None
        policy.allowed.release()
        assert pending.done.wait(10)

    return agent, policy, now, answer


def test_in_a_thread_the_robot_moves_on_while_the_policy_predicts() -> None:
    agent, policy, now, answer = overlapping()
    found = []
    for step in range(8):
        if step in (2, 7):
            answer()
        now[0] = step / 10
        found.append(float(agent.act(observe(step))[0]))
    assert found == [0, 0, 100, 101, 102, 103, 104, 204]  # asked at steps 0 and 3
    assert len(policy.queries) == 2


def test_after_the_deadline_the_robot_is_held_and_the_late_answer_is_dropped() -> None:
    agent, policy, now, answer = overlapping()
    agent.act(observe(0))
    answer()
    assert [agent.act(observe(step))[0] for step in range(1, 5)] == [100, 101, 102, 103]  # asked again at step 3
    now[0] = 1.5
    assert agent.act(observe(5))[0] == 0 and "did not answer within 1 s" in agent.reason
    answer()
    assert agent.act(observe(6))[0] == 0  # late: dropped, and asked about this observation
    answer()
    assert agent.act(observe(7))[0] == 300 and agent.reason == ""
    assert [round(query.time_s * 10) for query in policy.queries] == [0, 3, 6]


def test_a_guard_that_holds_the_robot_makes_it_wait_for_an_answer_to_what_it_sees_then() -> None:
    agent, policy, _, answer = overlapping()
    assert isinstance(agent, InterruptibleAgent) and isinstance(agent, HoldingAgent)
    agent.act(observe(0))
    assert agent.reason == "no action is left until the policy answers"
    answer()
    assert (agent.act(observe(1))[0], agent.reason) == (100, "")
    agent.act(observe(4))  # asks
    agent.interrupt()  # as `GuardedAgent` does
    answer()
    assert agent.act(observe(5))[0] == 0 and agent.reason
    answer()
    assert agent.act(observe(6))[0] == 300
    assert [round(query.time_s * 10) for query in policy.queries] == [0, 4, 5]


def test_a_lost_policy_holds_at_once_and_other_errors_are_raised() -> None:
    agent, policy, _, answer = overlapping()
    agent.act(observe(0))
    answer()
    agent.act(observe(3))
    agent.act(observe(6))
    policy.fault = ConnectionLostError("no server")
    answer()
    assert agent.act(observe(7))[0] == 0 and agent.reason == "no server"
    policy.fault = ValueError("broken")
    answer()
    with pytest.raises(ValueError, match="broken"):
        agent.act(observe(8))


@pytest.mark.parametrize(
    ("estimate", "actions"),
    [
        (None, [0, 0, 100, 101, 102, 200, 201, 202, 300, 301]),  # asked at steps 0, 3 and 6; at 3 rows 101 and 102 are committed
        (
            4,
            [0, 0, 100, 101, 102, 103, 104, 200, 201, 202, 203, 300],
        ),  # the answer of step 5 waits until step 7, and so do queries
        (1, [0, 0, 100, 101, 102, 201, 202, 203, 301, 302]),  # one row more was executed: it is skipped
        (0, [0, 0, 100, 101, 102, 202, 203, 204, 302, 303]),  # as by the method aligned
    ],
)
def test_an_answer_ahead_begins_after_the_rows_that_it_was_asked_for(estimate: int | None, actions: list[float]) -> None:
    agent, policy = made("ahead", estimate=estimate)
    assert drive(agent, policy, len(actions), Delay(2)) == actions


def test_a_query_ahead_has_the_committed_rows_and_the_state_before() -> None:
    policy = Numbered("ahead")
    agent = RealTimeAgent(policy, 3, "ahead", 2)
    agent.reset("go")
    for step in range(8):
        agent.act(dataclasses.replace(observe(step), state=np.full(2, step, np.float32)))
    first, second = policy.queries[:2]
    assert first.planned is None and first.previous_state is None and first.committed == 0
    assert second.planned is not None and second.planned[:, 0].tolist() == [103, 104] and second.committed == 2
    assert second.previous_state is not None and second.previous_state.tolist() == [2, 2]
    agent.reset("go")
    agent.act(observe(0))
    agent.act(observe(5))  # steps were missed: the state before is not known
    assert policy.queries[-1].previous_state is None
    assert all(query.previous_state is None for query in made("guided")[1].queries)
