"""Real-time chunking: the robot executes one chunk while the policy predicts the next (Black et al. 2025)."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable

import numpy as np

from verbot.agents.policy_memory import PolicyMemory
from verbot.agents.timing import DatedQueries, TimedChunk
from verbot.contracts import Policy, continuation_of, corrector_of
from verbot.errors import ConfigError, PolicyError
from verbot.ranges import COUNT, COUNT_OR_NONE
from verbot.spec import ActionChunk, FloatArray, Observation, RobotSpec
from verbot.spec.holding import HoldAction

METHODS = ("naive", "hold", "aligned", "blend", "anchored", "corrected", "guided", "trained", "ahead")
CONTINUED = ("guided", "trained", "ahead")  # methods by which the policy itself continues the actions of the chunk before
UNBLENDED = ("gripper", "discrete", "quaternion")  # kinds whose means are no actions
SUMMED = ("position_delta", "rotation_delta")  # kinds whose sum is where the robot is
BLENDED = 4  # rows
RECENT = 10  # answers


class DelayEstimate:
    """How many control steps the next answer will take: the most of the last `RECENT`, or a fixed number.

    Example:
        >>> estimate = DelayEstimate()
        >>> for steps in (1, 4, 2): estimate.add(steps)
        >>> estimate.steps, DelayEstimate(fixed=3).steps
        (4, 3)

    Raises `ConfigError` for a fixed number that is no whole number from 0.
    """

    def __init__(self, fixed: int | None = None):
        COUNT_OR_NONE.check("delay_estimate", fixed)
        self._fixed, self._measured = fixed, deque[int](maxlen=RECENT)

    def add(self, steps: int) -> None:
        self._measured.append(steps)

    @property
    def steps(self) -> int:
        return max(self._measured, default=0) if self._fixed is None else self._fixed


class RealTimeAgent:
    """Executes a chunk while the next one is predicted; asks `execute` steps after it asked last, or when that is answered.

    An answer takes some control steps, in which the robot moves on. Whoever drives the agent decides when it comes: after
    `next_query` nothing is asked before `receive` or `lost`, and `act` never waits. `verbot.agents.OverlappingAgent` predicts in
    a thread, `verbot.rollout.vector.VectorRunner` in simulated control steps. Driven by `act` alone, it predicts at once.

    | method | query | the new chunk begins | while it is predicted |
    |---|---|---|---|
    | ``naive`` | early | with its first row, which is late | the old chunk |
    | ``hold`` | after `execute` rows | with its first row | the robot is held |
    | ``aligned`` | early | after as many rows as were executed meanwhile | the old chunk |
    | ``blend`` | early | as ``aligned``; `BLENDED` rows pass from the old chunk to it | the old chunk |
    | ``anchored`` | early | as ``aligned``; it catches up with where the skipped rows lead | the old chunk |
    | ``corrected`` | early | as ``aligned``; every row is corrected when it is due | the old chunk, corrected |
    | ``guided`` | early, with the rest of the old chunk | as ``aligned`` | the old chunk |
    | ``trained`` | early, with the rows that are executed meanwhile | as ``aligned`` | the old chunk |
    | ``ahead`` | early, with the rows that are executed meanwhile | with its first row, after those | the old chunk |

    ``anchored`` concerns displacements. The rows that were skipped would have moved the robot elsewhere than those of the old
    chunk that were executed in their place; what is missing is added at once, within the ranges of the action. What a guard gave
    the robot counts as executed; what it will give is not known, so planned and committed rows are those of the chunk.

    ``corrected`` needs a policy with a corrector (`verbot.contracts.CorrectingPolicy`). `act` asks it at every control step, with
    the newest observation.

    ``guided``, ``trained`` and ``ahead`` need a policy that continues planned actions in this way
    (`verbot.contracts.ContinuingPolicy`). They report as committed what the delay is expected to take. If the actions run out,
    the robot is held until an answer comes. Observations must have a clock.

    The answer to a query ``ahead`` begins after the committed rows. If it comes before they are executed, it waits for that; if
    it comes later, as many of its rows are skipped as were executed beyond them.

    Args:
        policy: predicts the chunks; shared with other agents and never changed.
        execute: control steps from one query to the next, at least; with the delay at most the length of a chunk.
        method: one of `METHODS`.
        delay_estimate: expected control steps of an answer; None takes the most of the last ten.
        across_episodes: keep the policy's memory at `reset`, for another instruction in the same place.

    Raises:
        ConfigError: there is no such method, the policy does not continue actions by it or has no corrector, or no hold is known
            for the robot.
        PolicyError: when a chunk holds fewer than `execute` actions, or cannot be executed.

    Source: Black et al. 2025, "Real-Time Execution of Action Chunking Flow Policies"; of ``corrected``, Sendai et al. 2025,
    "Leave No Observation Behind: Real-time Correction for VLA Action Chunks"; of ``ahead``, Tang et al. 2025, "VLASH: Real-Time
    VLAs via Future-State-Aware Asynchronous Inference".
    """

    def __init__(
        self,
        policy: Policy,
        execute: int = 1,
        method: str = "aligned",
        delay_estimate: int | None = None,
        across_episodes: bool = False,
    ):
        COUNT.check("execute", execute)
        _check_method(method, policy)
        self.policy, self.method = policy, method
        self.holds = 0  # steps of this episode in which the robot was held
        self.switches = 0  # chunks of this episode whose execution began
        self._corrector = corrector_of(policy) if method == "corrected" else None
        self._execute, self._delay = execute, DelayEstimate(delay_estimate)
        self._hold, self._rate_hz = HoldAction(policy.spec), policy.spec.rate_hz
        self._mixed = _dimensions(policy.spec, lambda kind: kind not in UNBLENDED)
        self._summed = _dimensions(policy.spec, lambda kind: kind in SUMMED)
        self._low, self._high = policy.spec.action_low(), policy.spec.action_high()
        self._memory = PolicyMemory(across_episodes)
        self._queries = DatedQueries(self._memory)
        self._last: FloatArray | None = None
        self._held_state: FloatArray | None = None
        self._states = deque[tuple[float, FloatArray]](maxlen=2)  # the latest, with their times
        self._drop()

    def _drop(self) -> None:
        self._chunk: TimedChunk | None = None  # being executed
        self._answer: TimedChunk | None = None  # received after the last step
        self._predicted: ActionChunk | None = None  # of `_chunk`, as the policy made it
        self._received: ActionChunk | None = None  # of `_answer`
        self._asked_s: float | None = None  # None before the first query
        self._asked_row: int | None = None  # the row that was due then; None if the robot was held
        self._waits, self._is_new = False, False  # whether `_answer` came in the latest step
        self._committed = 0  # rows that were to be executed before the answer, of a query ``ahead``
        self._queries.clear()

    def reset(self, instruction: str) -> None:
        self._drop()
        self.holds, self.switches, self._last, self._held_state = 0, 0, None, None
        self._states.clear()
        self._memory.reset(instruction)

    @property
    def reason(self) -> str:
        """Why the robot was held in the latest step; ``""`` if it was not."""
        return "" if self._held_state is None else "no action is left until the policy answers"

    def interrupt(self) -> None:
        """The robot is held from the next step on, until a query that is made then is answered."""
        self._drop()

    def executed(self, action: FloatArray) -> None:
        """The robot was given `action` (a,) in the place of the latest one: the row that was taken is what it was given."""
        self._last = action.copy()
        if self._chunk is not None and self._held_state is None:
            self._chunk.replace_taken(action)

    def lost(self) -> None:
        self._waits = False
        self._asked_s = None

    def next_query(self, observation: Observation) -> Observation | None:
        self._settle(observation)
        if self._waits or not self._is_due(observation.time_s):
            return None
        planned = self._planned(observation.time_s)
        self._asked_s, self._waits = observation.time_s, True
        self._asked_row = None if self._chunk is None else self._chunk.due(observation.time_s)
        query, self._committed = self._queries.ask(observation), 0
        if self.method not in CONTINUED or planned is None:
            return query
        committed = min(self._delay.steps, len(planned))
        if self.method != "guided":
            planned = planned[:committed] if committed else None
        if self.method == "ahead":
            self._committed = committed
            query = dataclasses.replace(query, previous_state=self._state_before(observation.time_s))
        return dataclasses.replace(query, planned=planned, committed=committed)

    def receive(self, chunk: ActionChunk) -> None:
        answer = self._queries.receive(chunk, self.policy.spec)
        if len(answer.values) < self._execute:
            raise PolicyError(
                f"the policy predicts {len(answer.values)} actions at a time, but execute is {self._execute}; "
                f"choose execute between 1 and {len(answer.values)}"
            )
        self._answer, self._received, self._waits, self._is_new = answer, chunk, False, True

    def act(self, observation: Observation) -> FloatArray:
        query = self.next_query(observation)
        if query is not None:
            self.receive(self.policy.predict([query])[0])
            self._settle(observation)
        row = None if self._chunk is None else self._chunk.due(observation.time_s)
        action = None if self._chunk is None else self._chunk.take(observation.time_s)
        if action is None:
            return self._held(observation)
        if self._corrector is not None and self._predicted is not None and row is not None:
            action = self._corrector.correct(observation, self._predicted, row)
        self._held_state, self._last = None, action
        return action

    def _is_due(self, now_s: float) -> bool:
        if self._answer is not None:
            return False  # it is not begun yet
        if self._chunk is None or self._asked_s is None or self._chunk.due(now_s) is None:
            return True
        return self.method != "hold" and round((now_s - self._asked_s) * self._rate_hz) >= self._execute

    def _planned(self, now_s: float) -> FloatArray | None:
        """The rows of the present chunk from now on, (n, a) in the robot's units; None if there are none."""
        row = None if self._chunk is None else self._chunk.due(now_s)
        return None if self._chunk is None or row is None else self._chunk.values[row:]

    def _settle(self, observation: Observation) -> None:
        """Begin the chunk that was received, if any."""
        answer, now_s = self._answer, observation.time_s
        if not self._states or self._states[-1][0] != now_s:
            self._states.append((now_s, observation.state))
        if answer is None:
            return
        if self._asked_s is not None and self._is_new:
            self._delay.add(max(0, round((now_s - self._asked_s) * self._rate_hz)))
        self._is_new = False
        skipped = 0 if self.method in ("naive", "hold") else self._executed(now_s) - self._committed
        if skipped < 0:
            return  # it begins after rows that are not executed yet
        self._answer = None
        if skipped >= len(answer.values):
            return  # the robot did all of it already
        values = answer.values
        if self.method == "hold":
            values = values[: self._execute]
        elif self.method == "blend":
            values = self._blended(values, skipped, self._planned(now_s))
        elif self.method == "anchored":
            values = self._anchored(values, skipped)
        self._predicted = self._received
        self._chunk = TimedChunk(values, now_s - skipped / self._rate_hz, self._rate_hz, next=skipped)
        self.switches += 1

    def _state_before(self, now_s: float) -> FloatArray | None:
        """The state one control step before `now_s`; None if it was not seen."""
        found = [state for time_s, state in self._states if round((now_s - time_s) * self._rate_hz) == 1]
        return found[0] if found else None

    def _executed(self, now_s: float) -> int:
        """How many rows of the chunk were executed since the last query; steps in which the robot was held do not count."""
        if self._chunk is None or self._asked_row is None:
            return 0
        row = self._chunk.due(now_s)
        return (len(self._chunk.values) if row is None else row) - self._asked_row

    def _blended(self, values: FloatArray, skipped: int, planned: FloatArray | None) -> FloatArray:
        """`values` with their rows from `skipped` on drawn towards the `planned` ones, ever less."""
        count = 0 if planned is None else min(BLENDED, len(planned), len(values) - skipped)
        if planned is None or count == 0:
            return values
        weights = (1 - np.arange(1, count + 1, dtype=np.float32) / (count + 1))[:, None] * self._mixed
        blended, rows = values.copy(), slice(skipped, skipped + count)
        blended[rows] = weights * planned[:count] + (1 - weights) * values[rows]
        return blended

    def _anchored(self, values: FloatArray, skipped: int) -> FloatArray:
        """`values` that catch up with where the `skipped` rows would have led, as fast as the ranges of the action allow."""
        if self._chunk is None or self._asked_row is None or skipped == 0:
            return values
        executed = self._chunk.values[self._asked_row : self._asked_row + skipped]
        missing = (values[:skipped].sum(0) - executed.sum(0)) * self._summed
        anchored = values.copy()
        for row in range(skipped, len(values)):
            wanted = np.clip(values[row] + missing, self._low, self._high)
            anchored[row] = np.where(self._summed > 0, wanted, values[row])
            missing = missing - (anchored[row] - values[row])
        return anchored

    def _held(self, observation: Observation) -> FloatArray:
        if self._held_state is None:
            self._held_state = observation.state.copy()
        self.holds += 1
        return self._hold.of(self._held_state, self._last)


def _check_method(method: str, policy: Policy) -> None:
    if method not in METHODS:
        raise ConfigError(f"there is no method {method!r} of real-time chunking; known are {', '.join(METHODS)}")
    if method == "corrected" and corrector_of(policy) is None:
        raise ConfigError(
            "this policy has no corrector, which the method 'corrected' needs: `verbot corrector POLICY --data DATASET` trains "
            "one; it works with the policy in this process, not with one behind a server"
        )
    if method in CONTINUED and (found := continuation_of(policy)) != method:
        can = f"it can only be {found}" if found else "it ignores them; use aligned or blend"
        raise ConfigError(f"this policy does not continue planned actions by the method {method!r}: {can}")


def _dimensions(spec: RobotSpec, chosen: Callable[[str], bool]) -> FloatArray:
    """1 for each number of an action whose component is of a chosen kind, 0 for the others: (a,)."""
    return np.array([float(chosen(c.kind)) for c in spec.action for _ in range(c.size)], np.float32)
