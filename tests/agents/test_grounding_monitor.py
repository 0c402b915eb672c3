"""The grounding monitor warns if the instruction does not match the images, and acts as the wrapped agent does."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest

from verbot.agents import ChunkAgent, EnsembleAgent, GroundingMonitor, Misalignment
from verbot.agents.grounding_monitor import ConsecutiveAlarm
from verbot.contracts import ChunkedAgent
from verbot.errors import ConfigError, GroundingWarning, PolicyError
from verbot.spec import ActionChunk, Component, Observation, RobotSpec

STEP = Component("x", "position_delta", ("x",), "m", "base", (-1.0,), (1.0,))


class SimilarityPolicy:
    """Reports these similarities, one per prediction, and then repeats the last one."""

    spec = RobotSpec("line", 10.0, (), (STEP,), (STEP,))

    def __init__(self, *cosines: float):
        self.cosines, self.count = cosines, 0

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        self.count += 1
        extras = {"alignment": self.cosines[min(self.count, len(self.cosines)) - 1]} if self.cosines else {}
        return [ActionChunk(np.arange(3, dtype=np.float32)[:, None] + 10 * self.count, extras=extras)]


def drive(agent: ChunkedAgent, steps: int, instruction: str = "pick up the red cube") -> list[float]:
    agent.reset(instruction)
    return [float(agent.act(Observation({}, np.zeros(1, np.float32), "", time_s=i / 10))[0]) for i in range(steps)]


@pytest.mark.parametrize(
    ("cosines", "at_s"),
    [((0.2,), 0.2), ((0.5, 0.2), 0.3), ((0.2, 0.2, 0.5, 0.2), 0.5), ((0.2, 0.2, 0.5), None), ((0.31,), None)],
)
def test_it_warns_once_when_the_similarity_stays_below(cosines: tuple[float, ...], at_s: float | None) -> None:
    events: list[Misalignment] = []
    agent = GroundingMonitor(ChunkAgent(SimilarityPolicy(*cosines)), patience=3, on_warning=events.append)
    drive(agent, 9)
    if at_s is None:
        assert not events and agent.event is None
        return
    assert events == [Misalignment("pick up the red cube", 0.2, at_s, 3)] and agent.event is events[0]
    drive(agent, 9, "push the ball")
    assert [event.instruction for event in events] == ["pick up the red cube", "push the ball"], "once in each episode"


def test_predictions_after_the_monitored_time_are_ignored() -> None:
    agent = GroundingMonitor(
        ChunkAgent(SimilarityPolicy(0.5, 0.5, 0.1)), patience=2, seconds=0.2, on_warning=lambda event: pytest.fail(str(event))
    )
    drive(agent, 9)


def test_without_a_callback_it_is_a_python_warning() -> None:
    with pytest.warns(
        GroundingWarning,
        match=r"instruction does not match the images: 'pick up the red cube' .*for 2 predictions.*0\.10 at 0\.1 s",
    ):
        drive(GroundingMonitor(ChunkAgent(SimilarityPolicy(0.1)), patience=2), 3)


@pytest.mark.parametrize("make", [ChunkAgent, lambda policy: ChunkAgent(policy, 2), EnsembleAgent])
def test_it_acts_as_the_wrapped_agent(make) -> None:
    agent = GroundingMonitor(make(SimilarityPolicy(0.9)))
    assert isinstance(agent, ChunkedAgent)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert drive(agent, 7) == drive(make(SimilarityPolicy(0.9)), 7)


def test_a_policy_without_similarities_is_refused() -> None:
    with pytest.raises(PolicyError, match=r"its chunks have no 'alignment'; train one with objectives\.contrastive"):
        drive(GroundingMonitor(ChunkAgent(SimilarityPolicy())), 1)


@pytest.mark.parametrize("cosine", [float("nan"), "high", None])
def test_a_similarity_that_is_no_number_is_an_error(cosine) -> None:
    with pytest.raises(PolicyError, match="expected a finite number"):
        drive(GroundingMonitor(ChunkAgent(SimilarityPolicy(cosine))), 1)


@pytest.mark.parametrize(("threshold", "patience"), [(1.5, 1), (0.3, 0)])
def test_an_alarm_needs_a_cosine_and_a_patience(threshold: float, patience: int) -> None:
    with pytest.raises(ConfigError, match="an alarm needs a threshold between -1 and 1 .* and a patience of at least 1"):
        ConsecutiveAlarm(threshold, patience)
