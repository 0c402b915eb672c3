"""Signals that end a process: commands end with what is saved, trainings with a checkpoint, and workers with their parent.

Each signal acts once: a second one ends the process at once. A signal that is ignored, as SIGHUP under nohup, stays ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
Handler = object


class Stopped(KeyboardInterrupt):
    """A signal asked for the end. `number` is that of the signal, `note` says what was saved."""

    def __init__(self, number: int, note: str = ""):
        self.number, self.note = number, note
        name = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        super().__init__(f"{name}{note}")

    @property
    def exit_code(self) -> int:
        return 128 + self.number


class StopRequest:
    """Whether a signal has asked for the end. `number` is that of the signal, else 0."""

    number = 0


@contextmanager
def raising() -> Iterator[None]:
    """Inside the block a signal raises `Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Stopped(number)

    with _handled(stop):
        yield


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Inside the block a signal only makes a request, so that a step is completed and saved."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        request.number = number

    with _handled(note):
        yield request


def ignore() -> None:
    """In a worker, which ends when its parent has closed the pipe: ignore the signals that reach all processes of a command."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started inside the block receive no signals until they call `ignore`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    kept = {number: former for number, former in before.items() if former is not signal.SIG_IGN and former is not None}
    for number in kept:
        signal.signal(number, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        for number, former in kept.items():
            signal.signal(number, former)
