"""Predicting in a thread while the robot moves."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from verbot.agents.holding import Prediction
from verbot.agents.interrupting import executed, interrupt
from verbot.contracts import HoldingAgent, WaitingAgent
from verbot.errors import ConfigError
from verbot.spec import FloatArray, Observation

DEADLINE_S = 1.0


class OverlappingAgent:
    """Drives an agent that can wait on a robot in real time: `act` never waits for the policy, which predicts in a thread.

    One prediction runs at a time. If none has answered within `deadline_s`, or the policy is lost (`ConnectionLostError`), the
    actions that are left are dropped and the robot is held, until the answer to an observation that was taken afterwards. A late
    answer is dropped. So it is the outermost wrapper in the place of `verbot.agents.HoldAgent`, which waits for each prediction.

    Args:
        agent: acts; one that can wait, such as `verbot.agents.RealTimeAgent`.
        deadline_s: time limit of a prediction.
        clock: seconds, never going back.

    Raises `ConfigError` for a deadline that is no number of seconds.

    Errors of the policy other than `ConnectionLostError` are raised by `act`: the caller stops the robot.

    Example:
        >>> from verbot.agents import RealTimeAgent
        >>> agent = OverlappingAgent(RealTimeAgent(policy, execute=4), deadline_s=0.5)  # doctest: +SKIP
    """

    def __init__(self, agent: WaitingAgent, deadline_s: float = DEADLINE_S, clock: Callable[[], float] = time.monotonic):
        if not (math.isfinite(deadline_s) and deadline_s > 0):
            raise ConfigError(f"deadline_s is {deadline_s}; expected seconds, more than 0")
        interrupt(agent)
        self.deadline_s = deadline_s
        self._dropped = ""  # why the actions were dropped; "" since the policy answers again
        self._agent, self._clock = agent, clock
        self._pending: Prediction | None = None
        self._began = 0.0

    def reset(self, instruction: str) -> None:
        """The answer of a prediction for the episode before is dropped."""
        self._agent.reset(instruction)
        self._dropped = ""
        if self._pending is not None:
            self._pending.is_old = True

    @property
    def reason(self) -> str:
        """Why the actions were dropped, or the robot was held in the latest step; ``""`` while it moves."""
        return self._dropped or (self._agent.reason if isinstance(self._agent, HoldingAgent) else "")

    def interrupt(self) -> None:
        """The robot is held until the answer to an observation that is taken from now on."""
        interrupt(self._agent)
        if self._pending is not None:
            self._pending.is_old = True

    def executed(self, action: FloatArray) -> None:
        executed(self._agent, action)

    def act(self, observation: Observation) -> FloatArray:
        self._collect()
        query = self._agent.next_query(observation)
        # While a prediction that was given up still runs, the agent waits for an answer to a query that nobody received.
        if query is not None and self._pending is None:
            self._pending, self._began = Prediction(observation, query), self._clock()
            threading.Thread(target=self._pending.run, args=(self._agent.policy,), name="overlapping", daemon=True).start()
        return self._agent.act(observation)

    def _collect(self) -> None:
        """Take the answer if it is there, or give up on it after the deadline."""
        pending = self._pending
        if pending is None:
            return
        if not pending.done.is_set():
            if not pending.is_old and self._clock() - self._began > self.deadline_s:
                pending.is_old = True
                self._give_up(f"the policy did not answer within {self.deadline_s:g} s")
            return
        self._pending = None
        pending.raise_unless_lost()
        if pending.is_old:
            self._give_up(self._dropped)  # the agent must ask again, about a newer observation
        elif pending.chunk is None:
            self._give_up(str(pending.error))
        else:
            self._dropped = ""
            self._agent.receive(pending.chunk)

    def _give_up(self, reason: str) -> None:
        self._dropped = reason
        interrupt(self._agent)
