"""The guard between an agent and a robot: what it lets through keeps the limits of the robot's spec. Numpy only."""

from __future__ import annotations

import time
from collections.abc import Callable
from math import isfinite
from typing import Any

import numpy as np

from verbot.agents.guard_events import HOLDING, SEVERE, GuardConfig, GuardEvent, GuardResult
from verbot.agents.guard_motion import MotionLimiter
from verbot.agents.guard_rotation import TurnLimiter
from verbot.agents.guard_table import axis_table, chain_boxes, check_covered
from verbot.agents.holding import HoldAgent
from verbot.agents.interrupting import executed
from verbot.contracts import Agent, InterruptibleAgent
from verbot.errors import ConfigError, RobotError
from verbot.spec import Float64Array, FloatArray, Observation, RobotSpec
from verbot.spec.holding import HoldAction

Clock = Callable[[], float]  # seconds, monotonic


class Guard:
    """Checks each action before the robot executes it, by the rules of `verbot.agents.guard_events.RULES`, in their order.

    A number beyond a limit is changed to the nearest that all limits allow; `verbot.agents.guard_axis` says what is proved. An
    action that is none, or comes from an old observation, is replaced by the `HoldAction`, itself within the limits: the robot
    brakes. Too many changed actions in a row hold it too. After some severe events it is held until a person calls
    `reset_latch`.

    An action within the limits is returned as it came, to the bit. A guard is no safety device: it knows what is commanded and
    measured, not what is in the way. A hold is no emergency stop.

    Args:
        spec: the robot's, whose `limits`, `workspaces`, `chains` and `max_age_s` are enforced.
        config: when it holds and latches.
        unguarded: accept a robot without limits; its actions are still checked for numbers, size, range and age.
        clock: seconds, monotonic.

    Raises:
        ConfigError: the spec lacks limits, or has some that cannot be kept.

    Example:
        >>> from verbot.spec import Component, MotionLimits
        >>> x = Component("x", "joint_position", ("slide",), "m", "base", (0.0,), (1.0,))
        >>> guard = Guard(RobotSpec("rail", 10.0, (), (x,), (x,), limits=(MotionLimits("x", step=(0.1,)),)))
        >>> result = guard.apply(np.array([0.9], np.float32), Observation({}, np.array([0.5], np.float32)))
        >>> round(float(result.action[0]), 3), str(result.events[0])
        (0.6, 'step x.slide: 0.9 → 0.6')
    """

    def __init__(
        self, spec: RobotSpec, config: GuardConfig | None = None, unguarded: bool = False, clock: Clock = time.monotonic
    ):
        if not unguarded:
            check_covered(spec)
        self.spec, self.config = spec, config or GuardConfig()
        self._table = axis_table(spec)
        self._limiter = MotionLimiter(self._table, spec.rate_hz, chain_boxes(spec))
        self._turns = [TurnLimiter(spec, c, place) for c, place in self._table.groups if c.kind == "quaternion"]
        self._clock = clock
        self._max_age_s = self.config.max_age_s or spec.max_age_s
        try:
            self._hold: HoldAction | None = HoldAction(spec)
        except ConfigError:  # the caller has to stop the robot instead
            self._hold = None
        self._state: FloatArray | None = None  # the latest that is finite
        self._held_state: FloatArray | None = None
        self._last: FloatArray | None = None
        self._changed = self._severe = 0
        self._held_until_s: float | None = None
        self._latch = ""
        self._begin()

    @property
    def latched(self) -> str:
        """Why the robot is held until a person resets the latch, or ``""``."""
        return self._latch

    def latch(self, reason: str) -> None:
        """Hold from now on, until `reset_latch`."""
        self._latch = self._latch or reason

    def reset_latch(self) -> None:
        """For a person who has seen what happened: act again, and count severe events anew.

        The robot rests where it is measured next; what is not measured, such as how far it has turned, is where it was held.
        """
        self._latch, self._severe = "", 0
        self._limiter.rebase(forget=False)
        for turn in self._turns:
            if self._table.measured[turn.place.start]:
                turn.rebase()
        self._begin()

    def reset(self) -> None:
        """A new episode, or a robot that has been stopped: it rests where it is measured next. A latch stays."""
        self._limiter.rebase()
        for turn in self._turns:
            turn.rebase()
        self._last = None
        self._begin()

    def _begin(self) -> None:
        self._changed, self._held_until_s, self._held_state = 0, None, None
        self._latest_s, self._latest_at_s = -np.inf, -np.inf

    def apply(self, action: Any, observation: Observation, age_s: float = 0.0, taken_s: float = 0.0) -> GuardResult:
        """What the robot may execute instead of `action`, which may be anything.

        Args:
            observation: what `action` was computed from.
            age_s: how old its oldest part is now. A clock of the observation that stands still adds to it.
            taken_s: seconds from the observation to now.
        """
        now_s, time_s = self._clock(), observation.time_s
        is_measured = self._measure(observation)
        event = self._time_event(time_s, now_s, age_s, taken_s)
        found = _whole_event(action, self.spec.action_size, time_s)
        if found is None and not is_measured:
            found = GuardEvent("finite", "state", None, "the measured state is not finite, or of another size", "hold", time_s)
        if found is not None:
            self._count_severe(found.rule)
            return self._held(found, time_s)
        if event is None and self._latch:
            event = GuardEvent("latch", "", None, self._latch, "hold", time_s)
        if event is None and self._held_until_s is not None:
            if now_s < self._held_until_s:
                event = GuardEvent("repeated", "", None, "held after changed actions", "hold", time_s)
            else:
                self._held_until_s = None
        if event is not None:
            return self._held(event, time_s)
        self._held_state = None
        given, events = self._limited(action, time_s)
        self._last = given.copy()  # an agent may fill the same array again
        self._changed = self._changed + 1 if events else 0
        if self._changed >= self.config.patience:
            self._changed, self._held_until_s = 0, now_s + self.config.hold_s
            self._count_severe("repeated")
            count = f"{self.config.patience} changed actions in a row"
            events = (*events, GuardEvent("repeated", "", None, count, f"hold for {self.config.hold_s:g} s", time_s))
        return GuardResult(given, events)

    def hold(self, observation: Observation, reason: str = "") -> GuardResult:
        """The robot is to be held, because there is no action."""
        self._measure(observation)
        event = GuardEvent("latch", "", None, self._latch, "hold", observation.time_s) if self._latch else None
        return self._held(event, observation.time_s, reason)

    def _measure(self, observation: Observation) -> bool:
        state = observation.state
        if not isinstance(state, np.ndarray) or state.shape != (self.spec.state_size,) or not _is_finite(state):
            return False
        self._state = state
        return True

    def _time_event(self, time_s: float, now_s: float, age_s: float, taken_s: float) -> GuardEvent | None:
        """A clock that stands still is an observation that grows old; one that goes back is of another order."""
        if not time_s >= self._latest_s:  # also NaN
            return GuardEvent("order", "", None, time_s, "hold", time_s)
        if time_s > self._latest_s:
            self._latest_s, self._latest_at_s = time_s, now_s
        if self._max_age_s is not None:
            age_s = max(age_s, now_s - self._latest_at_s, taken_s)
            if not age_s <= self._max_age_s:
                return GuardEvent("age", "", None, age_s, "hold", time_s)
        if self.config.deadline_s is not None and not taken_s <= self.config.deadline_s:
            return GuardEvent("deadline", "", None, taken_s, "hold", time_s)
        return None

    def _count_severe(self, rule: str) -> None:
        if rule in SEVERE:
            self._severe += 1
            if self._severe >= self.config.latch_after:
                self.latch(f"{self._severe} severe events, the last by the rule {rule!r}")

    def _held(self, event: GuardEvent | None, time_s: float, reason: str = "") -> GuardResult:
        """Brake toward rest within the limits."""
        held = (event.rule if event is not None else "") or reason or "hold"
        events = () if event is None else (event,)
        self._changed = 0
        if self._hold is None or self._state is None:
            self._limiter.rebase()
            return GuardResult(None, events, held)
        if self._held_state is None:
            self._held_state = self._state.copy()
        self._last, _ = self._limited(self._hold.of(self._held_state, self._last), time_s, is_hold=True)
        return GuardResult(self._last, events, held)

    def _limited(self, action: FloatArray, time_s: float, is_hold: bool = False) -> tuple[FloatArray, tuple[GuardEvent, ...]]:
        assert self._state is not None
        measured = self._state[self._table.sources]
        request = action.astype(float)
        turned = self._turned(request, measured.astype(float)) if self._turns else []
        moved, codes = self._limiter.move(request.tolist(), measured.tolist(), is_hold)
        if moved is None and not turned:
            return action if action.dtype == np.float32 else action.astype(np.float32), ()
        given = np.array(request if moved is None else moved, np.float32)
        if is_hold:  # reported as such
            return given, ()
        events = [] if moved is None or codes is None else self._events(action.tolist(), moved, codes, time_s)
        events += [GuardEvent(t.rule, t.component, None, "orientation", "slower turn", time_s) for t in turned]
        return given, tuple(events)

    def _turned(self, request: Float64Array, measured: Float64Array) -> list[TurnLimiter]:
        """Limit the quaternions in `request`; those that were changed."""
        changed = []
        for turn in self._turns:
            known = measured[turn.place] if self._table.measured[turn.place.start] else None
            given = turn.turn(request[turn.place], known)
            if given is not None:
                request[turn.place] = given
                changed.append(turn)
        return changed

    def _events(self, request: list[float], given: list[float], codes: list[str], time_s: float) -> list[GuardEvent]:
        """One event for each component that was changed, of its axis that was changed most."""
        events = []
        for component, place in self._table.groups:
            broken = [i for i in range(place.start, place.stop) if codes[i]]
            if broken:
                i = max(broken, key=lambda i: abs(request[i] - given[i]))
                axis = component.axes[i - place.start]
                events.append(GuardEvent(codes[i], component.name, axis, float(request[i]), given[i], time_s))
        return events


class GuardedAgent:
    """An agent behind a guard: the outermost wrapper of an agent that drives a robot.

    While the guard is latched the agent is not asked. When the robot is held, an agent that can drops the actions it has left, so
    that it goes on from a fresh observation. Where the guard changed an action, an `InformedAgent` learns
    what the robot was given.

    Args:
        agent: acts.
        guard: of the robot that executes the actions.
        age_s: how old the oldest part of the latest observation is, in seconds.

    Raises:
        RobotError: from `act`, where the robot has to be held and no `HoldAction` of it is known: the caller stops it.

    Example:
        >>> agent = GuardedAgent(ChunkAgent(policy, 8), Guard(robot.spec))  # doctest: +SKIP
    """

    def __init__(self, agent: Agent, guard: Guard, age_s: Callable[[], float] | None = None, clock: Clock = time.monotonic):
        self._agent, self.guard, self._age_s, self._clock = agent, guard, age_s, clock
        self.result = GuardResult(None)  # of the latest `act`

    def reset(self, instruction: str) -> None:
        self._agent.reset(instruction)
        self.guard.reset()

    def instruct(self, instruction: str) -> None:
        """Another instruction while the robot moves: unlike `reset`, the guard goes on from the motion that it knows."""
        self._agent.reset(instruction)

    def decide(self, observation: Observation) -> GuardResult:
        """As `act`, with what the guard changed; an action of None means that the robot is to be stopped."""
        started_s = self._clock()
        if self.guard.latched:
            self.result = self.guard.hold(observation)
        else:
            action = self._agent.act(observation)
            taken_s = self._clock() - started_s
            age_s = taken_s if self._age_s is None else self._age_s()
            self.result = self.guard.apply(action, observation, age_s, taken_s)
        if self.result.held and isinstance(self._agent, InterruptibleAgent | HoldAgent):
            self._agent.interrupt()
        elif self.result.events and self.result.action is not None:
            executed(self._agent, self.result.action)
        return self.result

    def act(self, observation: Observation) -> FloatArray:
        action = self.decide(observation).action
        if action is None:
            held = self.result.held
            raise RobotError(f"robot {self.guard.spec.name!r} must be held ({held}); no hold action of it is known")
        return action


def _whole_event(action: Any, size: int, time_s: float) -> GuardEvent | None:
    """What makes `action` no action at all."""
    if not isinstance(action, np.ndarray) or action.dtype.kind not in "fiu":
        shown = f"{action.dtype} array" if isinstance(action, np.ndarray) else type(action).__name__
        return GuardEvent("shape", "", None, shown, "hold", time_s)
    if action.dtype.kind == "f" and not _is_finite(action):
        return GuardEvent("finite", "", None, f"{action.size - int(np.isfinite(action).sum())} numbers", "hold", time_s)
    if action.shape != (size,):
        return GuardEvent("shape", "", None, str(action.shape), "hold", time_s)
    return None


def _is_finite(array: FloatArray) -> bool:
    """Plain numbers are faster for the few of a robot."""
    return all(map(isfinite, array.tolist())) if array.ndim == 1 and len(array) <= 32 else bool(np.isfinite(array).all())


assert HOLDING >= SEVERE
