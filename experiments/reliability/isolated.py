"""Runs one hostile case in a forked process, with a limit of memory and of time."""

from __future__ import annotations

import json
import os
import resource
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

LIMIT_S, LIMIT_BYTES = 20, 3 * 2**30


def forked(action: Callable[[], tuple[str, str]]) -> tuple[str, str, int]:
    """The outcome of `action` in a process of its own, and the bytes of memory that it took in addition."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            resource.setrlimit(resource.RLIMIT_AS, (virtual() + LIMIT_BYTES,) * 2)
            signal.alarm(LIMIT_S)
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
            before = peak_memory()
            try:
                outcome = action()
            except BaseException as error:  # what a person would see as a traceback
                last = traceback.extract_tb(error.__traceback__)[-1]
                outcome = "untyped", f"{type(error).__name__}: {str(error)[:200]} ({last.filename}:{last.lineno})"
            used = max(0, peak_memory() - before)
            os.write(writing, json.dumps([*outcome, used]).encode("utf-8", "replace")[:60_000])
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        kind = "hang" if os.WTERMSIG(status) == signal.SIGALRM else "abort"
        return kind, signal.Signals(os.WTERMSIG(status)).name, 0
    if not said:
        return "abort", f"exit {os.waitstatus_to_exitcode(status)}", 0
    outcome, detail, used = json.loads(said)
    return outcome, detail, used


def virtual() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def peak_memory() -> int:
    """The peak of resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
