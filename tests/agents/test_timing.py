"""No agent executes a row of a chunk after its time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from verbot.agents import ChunkAgent, ColorAlignmentAgent, EnsembleAgent, GroundingMonitor, SamplingAgent
from verbot.agents.interrupting import interrupt
from verbot.contracts import ChunkedAgent, InterruptibleAgent
from verbot.errors import ConfigError, ConnectionLostError, PolicyError
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

RATE_HZ = 10.0
STEP = Component("x", "position_delta", ("x",), "m", "base", (-1e3,), (1e3,))
SPEC = RobotSpec("line", RATE_HZ, (), (STEP,), (STEP,))


class Clock:
    """Each row holds the time that it is for, in the policy's clock."""

    spec = SPEC

    def __init__(self, rows: int = 5, dated: bool = True, shift_s: float = 0.0):
        self.rows, self.dated, self.shift_s, self.times = rows, dated, shift_s, list[float]()

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.times += [o.time_s for o in observations]
        return [self.chunk(o.time_s + self.shift_s) for o in observations]

    def chunk(self, time_s: float) -> ActionChunk:
        values = (time_s + np.arange(self.rows) / RATE_HZ).astype(np.float32)[:, None]
        return ActionChunk(values, time_s if self.dated else 0.0)


def at(time_s: float) -> Observation:
    return Observation({}, np.zeros(1, np.float32), "", time_s=time_s)


def act(agent: ChunkedAgent, *times: float) -> list[float]:
    return [round(float(agent.act(at(time_s))[0]), 3) for time_s in times]


@pytest.mark.parametrize("dated", [True, False])
def test_rows_whose_time_has_passed_are_not_executed(dated: bool) -> None:
    agent = ChunkAgent(policy := Clock(dated=dated), execute=5)
    agent.reset("go")
    assert act(agent, 1.0, 1.1, 1.32, 1.33) == [1.0, 1.1, 1.3, 1.4], "a skipped step, and two in one period"
    assert act(agent, 31.0, 31.2) == [31.0, 31.2]
    assert policy.times == [1.0, 31.0]


def test_an_ensemble_averages_predictions_for_now_only() -> None:
    agent = EnsembleAgent(Clock(), decay=0.0)
    agent.reset("go")
    assert act(agent, 0.0, 0.1, 0.3, 0.6, 30.0) == [0.0, 0.1, 0.3, 0.6, 30.0]


@pytest.mark.parametrize("make", [lambda policy: ChunkAgent(policy, 4), EnsembleAgent])
def test_every_period_of_a_long_episode_has_its_row_and_no_other(make: Callable[[Clock], ChunkedAgent]) -> None:
    for rate in (10.0, 30.0, 3.7):
        policy = Clock()
        policy.spec = RobotSpec("line", rate, (), (STEP,), (STEP,))
        agent = make(policy)
        agent.reset("go")
        queries = len(policy.times)
        for step in range(400):
            agent.act(at(step / rate))
        assert len(policy.times) - queries == (100 if isinstance(agent, ChunkAgent) else 400)


def test_without_times_rows_follow_each_other() -> None:
    policy = Clock()
    policy.chunk = lambda time_s: ActionChunk(np.arange(5, dtype=np.float32)[:, None])  # type: ignore[method-assign]
    for agent, expected in ((ChunkAgent(policy, 3), [0, 1, 2, 0, 1]), (EnsembleAgent(policy, 0.0), [0, 0.5, 1, 1.5, 2])):
        agent.reset("go")
        assert act(agent, *[0.0] * 5) == expected


def test_a_clock_that_goes_back_leaves_no_row() -> None:
    for agent in (ChunkAgent(policy := Clock(), 5), EnsembleAgent(policy)):
        agent.reset("go")
        assert act(agent, 7.0, 7.1, 2.0, 2.1) == [7.0, 7.1, 2.0, 2.1]


@pytest.mark.parametrize("make", [lambda policy: ChunkAgent(policy, 5), EnsembleAgent])
def test_an_answer_that_comes_later_is_executed_from_the_row_that_is_due(make: Callable[[Clock], ChunkedAgent]) -> None:
    agent = make(policy := Clock())
    agent.reset("go")
    assert agent.next_query(at(0.0)) is not None
    assert agent.next_query(at(0.1)) is not None  # the first answer has not come yet
    agent.receive(policy.chunk(0.0))
    assert act(agent, 0.2) == [0.2]
    agent.reset("go")
    for time_s in (0.0, 0.1):
        assert agent.next_query(at(time_s)) is not None
    agent.receive(policy.chunk(0.0))
    assert agent.next_query(at(0.9)) is not None, "all its rows are past"


@pytest.mark.parametrize("make", [lambda policy: ChunkAgent(policy, 5), EnsembleAgent])
def test_a_policy_that_answers_an_old_observation_is_an_error(make: Callable[[Clock], ChunkedAgent]) -> None:
    agent = make(Clock(shift_s=-30.0))
    agent.reset("go")
    with pytest.raises(PolicyError, match=r"answered the observation of 40 s with 5 action\(s\) from 10 s on, all of them past"):
        act(agent, 40.0)


def test_the_clock_of_several_episodes_dates_rows_too() -> None:
    class Remembering(Clock):
        def chunk(self, time_s: float) -> ActionChunk:
            made = super().chunk(time_s)
            return ActionChunk(made.values, made.time_s, memory={"n": np.zeros(1)})

    agent = ChunkAgent(policy := Remembering(), execute=5, across_episodes=True)
    for _ in range(3):
        agent.reset("go")
        began = [policy.times[-1]] if policy.times else []
        actions = act(agent, 0.0, 0.1, 0.3, 9.0)
        assert np.diff(actions).round(2).tolist() == [0.1, 0.2, 8.7], began


@pytest.mark.parametrize(
    "values", [np.full((2, 1), np.nan), np.zeros((2, 3)), np.zeros((0, 1)), np.zeros(3)], ids=lambda v: v.shape
)
def test_what_no_robot_can_execute_is_not_received(values: np.ndarray) -> None:
    for agent in (ChunkAgent(Clock()), EnsembleAgent(Clock())):
        agent.reset("go")
        with pytest.raises(PolicyError, match="the policy predicted what cannot be executed"):
            agent.receive(ActionChunk(values.astype(np.float32)))


def test_after_a_lost_policy_the_next_observation_is_asked_for() -> None:
    class Losing(Clock):
        def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
            if 0.05 < observations[0].time_s < 0.25:
                raise ConnectionLostError("gone")
            return super().predict(observations)

    for dated in (True, False):
        for agent in (ChunkAgent(Losing(dated=dated)), EnsembleAgent(Losing(dated=dated))):
            agent.reset("go")
            assert act(agent, 0.0) == [0.0]
            for time_s in (0.1, 0.2):
                with pytest.raises(ConnectionLostError):
                    agent.act(at(time_s))
            assert act(agent, 0.3) == [0.3]


def test_wrappers_pass_an_interruption_on() -> None:
    inner = ChunkAgent(Clock(), execute=5)
    for agent in (inner, SamplingAgent(inner, 0), ColorAlignmentAgent(inner, {}), GroundingMonitor(SamplingAgent(inner, 0))):
        assert isinstance(agent, InterruptibleAgent)
        inner.reset("go")
        inner.act(at(0.0))
        assert inner.next_query(at(0.1)) is None
        interrupt(agent)
        assert inner.next_query(at(0.1)) is not None

    class Own:
        policy = Clock()

        def reset(self, instruction: str) -> None: ...
        def act(self, observation: Observation) -> np.ndarray: ...
        def next_query(self, observation: Observation) -> None: ...
        def receive(self, chunk: ActionChunk) -> None: ...

    with pytest.raises(ConfigError, match=r"Own cannot drop the actions it has left: it lacks interrupt\(\)"):
        SamplingAgent(Own(), 0).interrupt()  # type: ignore[arg-type]
