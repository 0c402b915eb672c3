"""The console: a browser page in which a person types or says an instruction and sees a robot obey it.

The data flow of a control step: `messages` (what pages send) → `session` (their meaning in the present phase) → `plants` (an
episode in simulation, or a robot). `server` serves the page and sends `streams` to it; `run` keeps the control rate.
"""

from __future__ import annotations

from verbot.console.choices import ConsoleChoices, ConsoleSetup
from verbot.console.run import ConsoleConfig, run_console

__all__ = ["ConsoleChoices", "ConsoleConfig", "ConsoleSetup", "run_console"]
