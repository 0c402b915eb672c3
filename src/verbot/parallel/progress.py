"""Progress of a long task: a bar on a terminal, otherwise a line printed at intervals."""

from __future__ import annotations

import sys
import time
from typing import Any

from verbot.text import printable, terminal

INTERVAL_S = 15.0  # between printed lines without a terminal


class Progress:
    """Shows the count, the rate, the time left and a note.

    Args:
        title: name of the task, e.g. ``"collect"``.
        total: the final count; None until it is known.
        unit: the counted unit, e.g. ``"episodes"``.
        done: count reached by an earlier call; it does not affect the rate.
        enabled: False shows nothing.
    """

    def __init__(self, title: str, total: int | None, unit: str, done: int = 0, enabled: bool = True):
        self._title, self._total, self._unit, self._enabled = title, total, unit, enabled
        self._first, self._done, self._note = done, done, ""
        self._started = self._printed = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Progress:
        if self._enabled and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[text]}", markup=False),
            )
            self._bar = RichProgress(*columns, console=Console(file=terminal(sys.stderr)), refresh_per_second=4)
            self._bar.start()
            self._bar.add_task(self._title, total=self._total, completed=self._done, text="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._enabled and self._done > self._first:
            self._print()

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """Set the count to `done`; `note` is shown after the rate and the time left."""
        self._done, self._note, self._total = done, note, total or self._total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=self._total, text=self.text())
        elif self._enabled and time.monotonic() - self._printed > INTERVAL_S:
            self._print()

    def text(self) -> str:
        """E.g. ``"300/1600 episodes, 23.1/s, 0:56 left"``."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._done - self._first) / seconds
        left = "" if self._total is None or not rate else f", {_clock(max(self._total - self._done, 0) / rate)} left"
        of = "" if self._total is None else f"/{max(self._total, self._done)}"  # the total may be an estimate
        note = f", {printable(self._note)}" if self._note else ""
        return f"{self._done}{of} {self._unit}, {rate:.3g}/s{left}{note}"

    def _print(self) -> None:
        self._printed = time.monotonic()
        print(f"{self._title}: {self.text()}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
