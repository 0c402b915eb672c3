"""Interrupting an agent, or reporting a lost answer or a changed action to it, through the ones that wrap it."""

from __future__ import annotations

from verbot.contracts import Agent, ChunkedAgent, InformedAgent, InterruptibleAgent, WaitingAgent
from verbot.errors import ConfigError
from verbot.spec import FloatArray


def interrupt(agent: ChunkedAgent) -> None:
    """Drop the actions that `agent` has left. Raises `ConfigError` if it cannot do so."""
    if not isinstance(agent, InterruptibleAgent):
        raise ConfigError(
            f"{type(agent).__name__} cannot drop the actions it has left: it lacks interrupt() "
            "(see verbot.contracts.InterruptibleAgent)"
        )
    agent.interrupt()


def lost(agent: ChunkedAgent) -> None:
    """Report to `agent` that the answer to its latest query will not come. Raises `ConfigError` if it cannot wait."""
    if not isinstance(agent, WaitingAgent):
        raise ConfigError(
            f"{type(agent).__name__} cannot wait for an answer: it lacks lost() (see verbot.contracts.WaitingAgent)"
        )
    agent.lost()


def executed(agent: Agent, action: FloatArray) -> None:
    """Tell `agent` that the robot was given `action` in the place of its latest one, if it wants to know."""
    if isinstance(agent, InformedAgent):
        agent.executed(action)
