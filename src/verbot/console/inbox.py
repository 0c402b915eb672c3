"""Commands of pages on their way to the control loop, and the stop, which overtakes them."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from verbot.errors import WireError

MOST = 64  # commands between two control steps


class Inbox:
    """Thread-safe: the server puts commands, the control loop takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._commands: list[Mapping[str, Any]] = []
        self._reason = ""

    def put(self, command: Mapping[str, Any]) -> None:
        """Raises `WireError` if too many are waiting."""
        with self._lock:
            if len(self._commands) >= MOST:
                raise WireError(f"more than {MOST} commands are waiting for the next control step")
            self._commands.append(command)

    def take(self) -> list[Mapping[str, Any]]:
        """The commands since the last call."""
        with self._lock:
            commands, self._commands = self._commands, []
            return commands

    def stop(self, reason: str) -> None:
        """No control step begins from now on, until the loop has held the robot. Commands that wait are dropped."""
        with self._lock:
            self._commands.clear()
            self._reason = self._reason or reason

    def stopped(self) -> str:
        """Why the robot is to be held; ``""`` if it is not. The caller holds it."""
        with self._lock:
            reason, self._reason = self._reason, ""
            return reason
