"""What acts in one episode."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from verbot.contracts.policies import Policy
from verbot.spec import ActionChunk, FloatArray, Observation


@runtime_checkable
class Agent(Protocol):
    """Acts in one episode and holds that episode's state."""

    def reset(self, instruction: str) -> None: ...

    def act(self, observation: Observation) -> FloatArray:
        """The action (a,) for this control step, in the robot's own units."""
        ...


@runtime_checkable
class ChunkedAgent(Agent, Protocol):
    """An agent whose predictions a caller may batch: `act` asks the policy itself only where `receive` was not called."""

    policy: Policy

    def next_query(self, observation: Observation) -> Observation | None:
        """The observation to predict from, or None while actions are left."""
        ...

    def receive(self, chunk: ActionChunk) -> None: ...


@runtime_checkable
class InterruptibleAgent(Agent, Protocol):
    """An agent that can drop the actions it has left, because the robot did something else; the policy's memory stays."""

    def interrupt(self) -> None: ...


@runtime_checkable
class InformedAgent(Agent, Protocol):
    """An agent that wants to know when the robot was given another action than it sent, because a guard changed it."""

    def executed(self, action: FloatArray) -> None:
        """The robot was given this action (a,) in the place of the latest one. Called after `act`, only where they differ."""
        ...


@runtime_checkable
class HoldingAgent(Agent, Protocol):
    """An agent that holds the robot while it has no action."""

    @property
    def reason(self) -> str:
        """Why it held the robot in the latest step; ``""`` if it did not."""
        ...


@runtime_checkable
class WaitingAgent(ChunkedAgent, InterruptibleAgent, Protocol):
    """An agent that acts while an answer is on its way: after `next_query` it asks nothing before `receive` or `lost`."""

    def lost(self) -> None:
        """The answer to the latest query will not come."""
        ...


@runtime_checkable
class Expert(Agent, Protocol):
    """A scripted agent that solves tasks from the simulator's own state.

    `act` returns the action to execute, with exploration noise where asked for; `label` the action without noise, for the
    latest observation.
    """

    def label(self) -> FloatArray: ...
