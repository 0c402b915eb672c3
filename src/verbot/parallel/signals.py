"""Signals that end a process: commands end with what is saved, trainings with a checkpoint, and workers with their parent.

The first one acts: a second one, of any kind, ends the process at once. A signal that is ignored, as SIGHUP under nohup, stays
ignored.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
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


@dataclass
class _State:
    """What the handlers of this process have in common.

    Args:
        first: the signal that asked for the end, else 0. Until the outermost block ends, another one ends the process.
        blocks: blocks of `raising` and `deferred` around the current line.
        held: blocks of `blocked`, in which `raising` raises nothing.
        pending: the signal that is raised at their end.
    """

    first: int = 0
    blocks: int = 0
    held: int = 0
    pending: int = 0


_state = _State()


@contextmanager
def raising() -> Iterator[None]:
    """Inside the block a signal raises `Stopped`."""

    def stop(number: int, frame: FrameType | None) -> None:
        _disarm(number)
        if not _state.held:
            raise Stopped(number)
        _state.pending = number

    with _handled(stop):
        yield


@contextmanager
def deferred() -> Iterator[StopRequest]:
    """Inside the block a signal only makes a request, so that a step is completed and saved."""
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        _disarm(number)
        request.number = number

    with _handled(note):
        yield request


@contextmanager
def ending() -> Iterator[None]:
    """Inside the block a signal ends the process: for a wait in compiled code, during which no handler runs."""
    with _handled(signal.SIG_DFL):
        yield


def ignore() -> None:
    """In a worker, which ends when its parent has closed the pipe: ignore the signals that reach all processes of a command."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)


@contextmanager
def blocked() -> Iterator[None]:
    """Processes that are started inside the block receive no signals until they call `ignore`; `Stopped` is raised at its end."""
    mine = threading.current_thread() is threading.main_thread()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    _state.held += mine  # another thread may receive the signal, whose handler runs in this one
    try:
        yield
    finally:
        _state.held -= mine
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if mine and _state.pending and not _state.held:
            number, _state.pending = _state.pending, 0
            raise Stopped(number)


@contextmanager
def _handled(handler: Handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # only that one may set handlers
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    kept = {number: former for number, former in before.items() if former is not signal.SIG_IGN and former is not None}
    for number in () if _state.first else kept:
        signal.signal(number, handler)  # type: ignore[arg-type]
    _state.blocks += 1
    try:
        yield
    finally:
        _state.blocks -= 1
        if not _state.blocks:
            _state.first = _state.pending = 0
        for number, former in () if _state.first else kept.items():
            signal.signal(number, former)


def _disarm(number: int) -> None:
    """From now on a signal of any kind ends the process, also where cleanup leaves a block."""
    _state.first = _state.first or number
    for each in SIGNALS:
        if signal.getsignal(each) not in (signal.SIG_IGN, None):
            signal.signal(each, signal.SIG_DFL)
