"""Worker processes that communicate over a pipe, without fork of a threaded parent, re-run of the user's script, or orphans.

A worker is ``python -m module`` with one end of a pipe. If a worker dies, the parent's next message fails at once; if the
parent dies, its workers end.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from verbot.errors import VerbotError, missing
from verbot.parallel import signals

Serve = Callable[["Channel"], None]
CLOSING_S, LEAVING_S = 5.0, 1.0  # how long the parent waits for its workers, and a worker without a parent for its work to end
PREFETCH = 2  # requests in the pipe of each worker or core, so that it never waits for the parent


class WorkerError(VerbotError):
    """A worker process raised an error, or ended before its work was done."""


class WorkerDied(WorkerError):
    """A worker process ended without a message: it was killed, or crashed in compiled code."""


@dataclass(frozen=True)
class Channel:
    """The worker's end of the pipe. `receive` blocks. Both methods raise `EOFError` or `BrokenPipeError` without a parent."""

    connection: Connection

    def send(self, message: Any) -> None:
        self.connection.send(("message", message))

    def receive(self) -> Any:
        return self.connection.recv()


@dataclass(frozen=True)
class Worker:
    """The parent's end of the pipe."""

    name: str
    process: subprocess.Popen[bytes]
    connection: Connection

    def send(self, message: Any) -> None:
        try:
            self.connection.send(message)
        except OSError as error:
            self.receive()  # raises the worker's own error if it sent one
            raise self._gone() from error

    def receive(self) -> Any:
        """The next message.

        Raises `WorkerError`: with one line for an error that verbot raises on purpose, otherwise with the worker's traceback, or
        with its exit code if there is no traceback.
        """
        try:
            kind, message = self.connection.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        if kind == "refusal":
            raise WorkerError(f"{self.name}: {message}")
        if kind == "error":
            raise WorkerError(f"{self.name} failed:\n{message}")
        return message

    def close(self) -> None:
        """Close the pipe and wait up to 5 s for the worker to end; then kill it."""
        close_all([self])

    def _gone(self) -> WorkerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        return WorkerDied(f"{self.name} ended early with exit code {self.process.poll()}; see its output on stderr")


def close_all(running: Sequence[Worker]) -> None:
    """Close all pipes, wait up to 5 s for all workers together to end, and kill those that have not."""
    for worker in running:
        worker.connection.close()
    deadline = time.monotonic() + CLOSING_S
    for worker in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.process.wait(timeout=max(deadline - time.monotonic(), 0))
    left = [worker for worker in running if worker.process.poll() is None]
    for worker in left:
        worker.process.kill()
    for worker in left:
        worker.process.wait()


@contextlib.contextmanager
def workers(module: str, count: int, name: str = "worker") -> Iterator[list[Worker]]:
    """`count` processes of ``python -m module``, closed on exit. Each computes with one thread.

    The caller may replace a dead worker in the list by one made with `successor`, which is then closed too.
    """
    started: list[Worker] = []
    try:
        for number in range(count):
            with signals.blocked():  # no signal between the start of a process and its place in the list
                started.append(_start(module, f"{name} {number + 1}"))
        yield started
    finally:
        close_all(started)


def successor(module: str, dead: Worker) -> Worker:
    """A new worker that replaces one that ended."""
    dead.close()
    return _start(module, dead.name)


def in_order(module: str, count: int, name: str, setup: Any, requests: Sequence[Any]) -> Generator[Any]:
    """The answers of `count` workers to `requests`, in order.

    A worker that dies is replaced, and its open requests are repeated. Raises `WorkerDied` if one request kills two workers.

    Args:
        module, name: as in `workers`; a worker answers every request with one message, in order.
        setup: the first message to each worker; it has no answer.
    """
    waiting, done, next_number, deaths = deque(range(len(requests))), dict[int, Any](), 0, set[int]()
    with workers(module, min(count, len(requests)), name) as running:
        open_requests: dict[Worker, deque[int]] = {}
        for worker in running:
            _begin(worker, setup, requests, waiting, open_requests)
        while next_number < len(requests):
            by_connection = {worker.connection: worker for worker in running}
            for connection in wait(list(by_connection)):
                worker = by_connection[connection]  # type: ignore[index]
                try:
                    answer = worker.receive()
                except WorkerDied:
                    lost = open_requests.pop(worker)
                    if not lost or lost[0] in deaths:
                        raise
                    deaths.add(lost[0])
                    waiting.extendleft(reversed(lost))
                    with signals.blocked():
                        running[running.index(worker)] = replacement = successor(module, worker)
                    _begin(replacement, setup, requests, waiting, open_requests)
                else:
                    done[open_requests[worker].popleft()] = answer
                    _send_next(worker, requests, waiting, open_requests[worker])
            while next_number in done:
                yield done.pop(next_number)
                next_number += 1


def cores() -> int:
    """The number of cores that this process may use. A container or batch system may allow fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve(work: Serve) -> None:
    """The body of a worker module's ``__main__``: run `work`, send an error to the parent, and exit quietly if it is gone."""
    channel = Channel(Connection(int(sys.argv[1])))
    signals.ignore()
    threading.Thread(target=_end_with_parent, args=(channel.connection.fileno(),), daemon=True).start()
    try:
        work(channel)
    except (EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt):
        sys.exit(1)
    except (VerbotError, ModuleNotFoundError) as error:
        known = missing(error) if isinstance(error, ModuleNotFoundError) else error
        kind, text = "refusal", f"{type(known).__name__}: {known}"
        if not isinstance(known, VerbotError):
            kind, text = "error", traceback.format_exc()
        with contextlib.suppress(OSError):
            channel.connection.send((kind, text))
        sys.exit(1)
    except Exception:
        with contextlib.suppress(OSError):
            channel.connection.send(("error", traceback.format_exc()))
        sys.exit(1)


def _end_with_parent(pipe: int) -> None:
    """End this process once the parent has closed its end of the pipe, also where `work` computes without an end."""
    watched = select.poll()
    watched.register(pipe, 0)  # a message does not end the wait; a closed end always does
    watched.poll()
    time.sleep(LEAVING_S)  # in which `work` may notice it, and clean up
    os._exit(1)


def _begin(
    worker: Worker, setup: Any, requests: Sequence[Any], waiting: deque[int], open_requests: dict[Worker, deque[int]]
) -> None:
    open_requests[worker] = deque()
    with contextlib.suppress(WorkerDied):  # noticed when its answer is received
        worker.send(setup)
    for _ in range(PREFETCH):
        _send_next(worker, requests, waiting, open_requests[worker])


def _send_next(worker: Worker, requests: Sequence[Any], waiting: deque[int], given: deque[int]) -> None:
    if waiting:
        given.append(waiting.popleft())
        with contextlib.suppress(WorkerDied):
            worker.send(requests[given[-1]])


def _start(module: str, name: str) -> Worker:
    ours, theirs = Pipe()
    source = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([source, *filter(None, [os.environ.get("PYTHONPATH")])])
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")
    with theirs, signals.blocked():
        process = subprocess.Popen(
            [sys.executable, "-m", module, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, **threads, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
        )
    return Worker(name, process, ours)
