"""When the rows of a chunk are due, so that no agent executes one late."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from verbot.agents.policy_memory import PolicyMemory
from verbot.errors import PolicyError, SpecError
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec

OUTSTANDING = 64  # queries that wait for their chunk


@dataclass
class TimedChunk:
    """The rows of a chunk with the time of the first, in seconds since the episode began; `next` is the first not executed."""

    values: FloatArray
    start_s: float
    rate_hz: float
    next: int = 0

    def due(self, now_s: float) -> int | None:
        """The row to execute at `now_s`, or None if none is left.

        It is the next one, or a later one if that one's time has passed by more than half a period. Observations without a time
        (all of them 0) take one row after the other. After a clock that went back no row is left.

        Example:
            >>> import numpy as np
            >>> chunk = TimedChunk(np.zeros((4, 1), np.float32), start_s=2.0, rate_hz=10.0)
            >>> chunk.due(2.0), chunk.due(2.14), chunk.due(2.3), chunk.due(2.4), chunk.due(0.0)
            (0, 1, 3, None, None)
        """
        periods = (now_s - self.start_s) * self.rate_hz
        if not -0.5 <= periods < len(self.values):
            return None
        row = max(self.next, round(periods))
        return row if row < len(self.values) else None

    def take(self, now_s: float) -> FloatArray | None:
        """Execute the row that is due: float32 (a,)."""
        row = self.due(now_s)
        if row is None:
            return None
        self.next = row + 1
        values: FloatArray = self.values[row]
        return values

    def replace_taken(self, action: FloatArray) -> None:
        """The row that was taken last was executed as `action` (a,). The array of the chunk stays as it was predicted."""
        if self.next:
            self.values = self.values.copy()
            self.values[self.next - 1] = action


class DatedQueries:
    """Makes the queries of an agent, and dates the chunks that answer them.

    Args:
        memory: the policy's memory and clock.
    """

    def __init__(self, memory: PolicyMemory):
        self._memory = memory
        self._asked: deque[tuple[float, float]] = deque(maxlen=OUTSTANDING)  # in the episode's time and in the policy's

    def clear(self) -> None:
        self._asked.clear()

    def only_latest(self) -> None:
        """No earlier query will be answered."""
        self._asked = deque(list(self._asked)[-1:], OUTSTANDING)

    def ask(self, observation: Observation) -> Observation:
        query = self._memory.query(observation)
        self._asked.append((observation.time_s, query.time_s))
        return query

    def receive(self, chunk: ActionChunk, spec: RobotSpec) -> TimedChunk:
        """The chunk with the time of the observation that it was predicted from.

        That is `ActionChunk.time_s`. A policy that leaves it at 0, or has a clock of its own that is ahead, is taken to answer
        the latest query. Raises `PolicyError` unless the robot can execute the chunk.
        """
        try:
            chunk.check(spec)
        except SpecError as error:
            raise PolicyError(f"the policy predicted what cannot be executed: {error}") from error
        self._memory.value = chunk.memory
        return TimedChunk(chunk.values, self._start(chunk.time_s, 0.5 / spec.rate_hz), spec.rate_hz)

    def _start(self, time_s: float, tolerance_s: float) -> float:
        if not self._asked:
            return time_s
        latest_s, latest_policy_s = self._asked[-1]
        distance, answered_s = min((abs(policy_s - time_s), now_s) for now_s, policy_s in self._asked)
        if distance > tolerance_s:
            answered_s = latest_s if time_s == 0.0 or time_s > latest_policy_s else latest_s - (latest_policy_s - time_s)
        self._asked = deque((query for query in self._asked if query[0] > answered_s), OUTSTANDING)
        return answered_s


def late(chunk: TimedChunk, now_s: float) -> PolicyError:
    """What to raise for a chunk of which no row is left, although it was asked for now."""
    return PolicyError(
        f"the policy answered the observation of {now_s:g} s with {len(chunk.values)} action(s) from {chunk.start_s:g} s on, "
        "all of them past; expected ActionChunk.time_s to be the time of the observation"
    )
