"""Holding: while the policy does not answer in time, the robot is kept where it is."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, field

from verbot.agents.interrupting import executed, interrupt
from verbot.contracts import ChunkedAgent, Policy
from verbot.errors import ConfigError, ConnectionLostError
from verbot.spec import ActionChunk, FloatArray, Observation
from verbot.spec.holding import HoldAction


@dataclass
class Prediction:
    """A prediction in a thread of its own, for an agent's `query` about an `observation`."""

    observation: Observation
    query: Observation
    chunk: ActionChunk | None = None
    error: Exception | None = None
    done: threading.Event = field(default_factory=threading.Event)
    is_old: bool = False  # of an episode before, or from before an interruption

    def run(self, policy: Policy) -> None:
        try:
            self.chunk = policy.predict([self.query])[0]
        except Exception as error:  # raised again by `HoldAgent.act`
            self.error = error
        self.done.set()

    def raise_unless_lost(self) -> None:
        """Raise what the policy raised in this episode, unless it was lost."""
        if self.error is not None and not self.is_old and not isinstance(self.error, ConnectionLostError):
            raise self.error


class HoldAgent:
    """Wraps an agent for a robot in real time: if its policy has no answer within a time limit, the robot is held.

    `act` returns within `timeout_s`, whatever the policy does. A policy that is lost or late (`ConnectionLostError`, or no answer
    yet) makes it return the `HoldAction` and try again at the next step.

    What was predicted before a hold is dropped. It ends with a chunk from an observation that was taken when the hold began, or
    later: of a chunk that comes late, only rows that are still due are executed, each at its time. So a policy that takes longer
    than a step acts with the rest of each chunk, if the agent executes more rows than a prediction takes periods; an agent that
    asks at every step (`EnsembleAgent`, ``execute=1``) holds for ever behind a policy that always takes longer than `timeout_s`.
    Observations without a clock (all at 0 s) have no rows that are still due, so late chunks are dropped.

    It is the outermost wrapper. A hold is no emergency stop.

    Args:
        agent: acts while the policy answers; one that can be interrupted, as all of `verbot.agents`.
        timeout_s: time limit of each step; by default one control period. A policy that answers later is used too, see above.

    Raises:
        ConfigError: the agent cannot be interrupted, or no hold is known for this robot.

    Errors of the policy other than `ConnectionLostError` are raised: the caller stops the robot.

    Example:
        >>> from verbot.agents import ChunkAgent
        >>> agent = HoldAgent(ChunkAgent(policy, execute=8), timeout_s=0.05)  # doctest: +SKIP
    """

    def __init__(self, agent: ChunkedAgent, timeout_s: float | None = None):
        spec = agent.policy.spec
        self.timeout_s = 1.0 / spec.rate_hz if timeout_s is None else timeout_s
        if not (math.isfinite(self.timeout_s) and self.timeout_s > 0):
            raise ConfigError(f"timeout_s is {timeout_s}; expected seconds, more than 0")
        interrupt(agent)
        self._agent, self._hold = agent, HoldAction(spec)
        self.holds = 0  # steps of this episode in which the robot was held
        self.reason: str = ""  # why it is held now; "" while the policy acts
        self._pending: Prediction | None = None  # not answered in time
        self._last: FloatArray | None = None
        self._held_state: FloatArray | None = None

    def reset(self, instruction: str) -> None:
        """A prediction for the episode before is dropped when it arrives."""
        self._agent.reset(instruction)
        self.holds, self.reason, self._last, self._held_state = 0, "", None, None
        if self._pending is not None:
            self._pending.is_old = True

    def interrupt(self) -> None:
        """Drop the actions that are left and an answer that is late, and go on from an observation that is taken from now on."""
        interrupt(self._agent)
        if self._pending is not None:
            self._pending.is_old = True

    def executed(self, action: FloatArray) -> None:
        self._last = action.copy()
        if self._held_state is None:
            executed(self._agent, action)

    def act(self, observation: Observation) -> FloatArray:
        deadline = time.monotonic() + self.timeout_s
        pending = self._pending
        if pending is not None:
            if not pending.done.is_set():
                return self._held(observation, "the policy has not answered yet")
            self._pending = None
            pending.raise_unless_lost()
            if pending.chunk is not None and not pending.is_old and observation.time_s > pending.observation.time_s:
                self._agent.receive(pending.chunk)  # its query began the hold, or was made in it; past rows are skipped
        query = self._agent.next_query(observation)
        if query is not None:
            reason = self._receive(observation, query, deadline) or (
                "" if self._agent.next_query(observation) is None else "its answer is late"
            )
            if reason:
                return self._held(observation, reason)
        self.reason, self._held_state = "", None
        self._last = self._agent.act(observation)
        return self._last

    def _receive(self, observation: Observation, query: Observation, deadline: float) -> str:
        """Predict and pass the chunk on. Returns why that was not possible, or ``""``."""
        pending = Prediction(observation, query)
        threading.Thread(target=pending.run, args=(self._agent.policy,), name="hold-agent", daemon=True).start()
        if not pending.done.wait(max(0.0, deadline - time.monotonic())):
            self._pending = pending
            interrupt(self._agent)
            self._agent.next_query(observation)  # asked again, so that the agent can date the answer
            return f"the policy did not answer within {self.timeout_s:g} s"
        pending.raise_unless_lost()
        if pending.error is not None:
            return str(pending.error)
        assert pending.chunk is not None
        self._agent.receive(pending.chunk)
        return ""

    def _held(self, observation: Observation, reason: str) -> FloatArray:
        if self._pending is None:
            interrupt(self._agent)
        if self._held_state is None:
            self._held_state = observation.state.copy()
        self.holds, self.reason = self.holds + 1, reason
        return self._hold.of(self._held_state, self._last)
