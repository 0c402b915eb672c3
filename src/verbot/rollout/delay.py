"""Answers that take time: in an evaluation with a delay the robot moves on while the policy predicts."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from verbot.agents.interrupting import lost
from verbot.contracts import ChunkedAgent, Corrector, Policy, continuation_of, corrector_of
from verbot.errors import ConfigError
from verbot.ranges import COUNT_OR_NONE, NumberRange, check_ranges
from verbot.spec import ActionChunk, Observation, RobotSpec

SHARE = NumberRange(0, 1)


@dataclass(frozen=True)
class Delay:
    """How long an answer takes, in control steps.

    The answer to what was asked at step t can be used from step t + `steps` on, up to `jitter` earlier or later. An answer that
    is lost is noticed at step t + `steps` + `jitter` + 1.

    Args:
        steps: of each answer.
        jitter: each answer takes so many steps more or less, every number equally likely; at most `steps`.
        drop: share of answers that are lost.

    Raises `ConfigError` for a number outside its range.
    """

    steps: int = 0
    jitter: int = 0
    drop: float = 0.0

    def __post_init__(self) -> None:
        check_ranges(self, steps=COUNT_OR_NONE, jitter=COUNT_OR_NONE, drop=SHARE)
        if self.jitter > self.steps:
            raise ConfigError(
                f"a delay of {self.steps} steps cannot have a jitter of {self.jitter}; expected at most {self.steps}"
            )

    @property
    def is_none(self) -> bool:
        return self.steps == 0 and self.drop == 0.0


NO_DELAY = Delay()


class DelayedAnswers:
    """The answers of one episode that are on their way. They are a function of the delay and the episode's `key`.

    Example:
        >>> answers, chunk = DelayedAnswers(Delay(2), "pick/0"), ActionChunk(np.zeros((1, 1), np.float32))
        >>> answers.send(chunk, step=5)
        >>> [len(answers.arrived(step)) for step in (5, 6, 7, 8)]
        [0, 0, 1, 0]
    """

    def __init__(self, delay: Delay, key: str):
        self._delay, self._rng = delay, np.random.default_rng(zlib.crc32(f"{key} delay".encode()))
        self._on_the_way: list[tuple[int, ActionChunk | None]] = []

    def send(self, chunk: ActionChunk, step: int) -> None:
        """`chunk` answers what was asked at control step `step`."""
        jitter, drawn = int(self._rng.integers(-self._delay.jitter, self._delay.jitter + 1)), self._rng.random()
        if drawn < self._delay.drop:
            self._on_the_way.append((step + self._delay.steps + self._delay.jitter + 1, None))
        else:
            self._on_the_way.append((step + self._delay.steps + jitter, chunk))

    def arrived(self, step: int) -> list[ActionChunk | None]:
        """The answers that are there at control step `step`, each once and the earliest first; None for one that was lost."""
        there = sorted((each for each in self._on_the_way if each[0] <= step), key=lambda each: each[0])
        self._on_the_way = [each for each in self._on_the_way if each[0] > step]
        return [chunk for _, chunk in there]


@dataclass(frozen=True)
class DelayedPolicy:
    """What an agent knows of a policy whose answers take time: all but `predict`, which would answer at once."""

    policy: Policy

    @property
    def spec(self) -> RobotSpec:
        return self.policy.spec

    @property
    def continuation(self) -> str:
        return continuation_of(self.policy)

    @property
    def corrector(self) -> Corrector | None:
        return corrector_of(self.policy)

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        raise ConfigError(
            "this agent cannot wait for its policy, so it cannot be evaluated with a delay; use verbot.agents.RealTimeAgent"
        )


def deliver(agent: ChunkedAgent, answers: DelayedAnswers, step: int) -> None:
    """Give `agent` the answers that have arrived at control step `step`. Raises what its `receive` raises."""
    for chunk in answers.arrived(step):
        if chunk is None:
            lost(agent)
        else:
            agent.receive(chunk)
