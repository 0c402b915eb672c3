"""Interrupting an agent through the ones that wrap it."""

from __future__ import annotations

from verbot.contracts import ChunkedAgent, InterruptibleAgent
from verbot.errors import ConfigError


def interrupt(agent: ChunkedAgent) -> None:
    """Drop the actions that `agent` has left. Raises `ConfigError` if it cannot do so."""
    if not isinstance(agent, InterruptibleAgent):
        raise ConfigError(
            f"{type(agent).__name__} cannot drop the actions it has left: it lacks interrupt() "
            "(see verbot.contracts.InterruptibleAgent)"
        )
    agent.interrupt()
