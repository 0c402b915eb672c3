"""One line that says how far a long task is: a bar on a terminal, a printed line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any

QUIET_S = 15.0  # between printed lines where there is no terminal


class Progress:
    """Done, rate, time left and a note.

    Args:
        title: what is being done, e.g. ``"collect"``.
        total: how many there will be; None until it is known.
        unit: of what is counted, e.g. ``"episodes"``.
        done: how many an earlier call had finished; they do not count toward the rate.
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

            columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[words]}"))
            self._bar = RichProgress(*columns, console=Console(stderr=True), refresh_per_second=4)
            self._bar.start()
            self._bar.add_task(self._title, total=self._total, completed=self._done, words="")
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif self._enabled and self._done > self._first:
            self._print()

    def update(self, done: int, note: str = "", total: int | None = None) -> None:
        """`done` in all so far; `note` is shown after the rate and the time left."""
        self._done, self._note, self._total = done, note, total or self._total
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, total=self._total, words=self.words())
        elif self._enabled and time.monotonic() - self._printed > QUIET_S:
            self._print()

    def words(self) -> str:
        """E.g. ``"300/1600 episodes, 23.1/s, 0:56 left"``."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        rate = (self._done - self._first) / seconds
        left = "" if self._total is None or not rate else f", {_clock((self._total - self._done) / rate)} left"
        of = "" if self._total is None else f"/{self._total}"
        note = f", {self._note}" if self._note else ""
        return f"{self._done}{of} {self._unit}, {rate:.3g}/s{left}{note}"

    def _print(self) -> None:
        self._printed = time.monotonic()
        print(f"{self._title}: {self.words()}", file=sys.stderr, flush=True)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
