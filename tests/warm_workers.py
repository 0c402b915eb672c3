"""Worker processes for tests: forked from one that has imported torch and verbot, which takes a new interpreter seconds.

The forked process runs ``python -m module`` as `verbot.parallel.workers` starts it: with the environment, the working directory
and the standard streams of the caller at that moment, and no other open files. A test that is marked ``cold_workers`` starts new
interpreters instead.
"""

from __future__ import annotations

import importlib
import json
import os
import random
import runpy
import select
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

IMPORTED = (
    "verbot.rollout.worker",
    "verbot.rollout.collect",
    "verbot.rollout.evaluation",
    "verbot.policy.policy",
    "verbot.training.distributed.rank_worker",
    "verbot.data.samples.clip_worker",
)


class WarmProcess:
    """The process from which workers are forked; it ends with its parent."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, __file__, str(theirs.fileno())]
            path = os.pathsep.join(filter(None, sys.path))
            self._process = subprocess.Popen(
                command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": path}
            )
        self._socket = ours

    def close(self) -> None:
        self._socket.close()
        self._process.wait()

    def start(self, module: str, connection: int, environment: dict[str, str]) -> Forked:
        """Run `module` in a process that has the file descriptor `connection`."""
        status, theirs = os.pipe()
        message = json.dumps({"module": module, "environment": environment, "folder": os.getcwd()}).encode()
        try:
            socket.send_fds(self._socket, [len(message).to_bytes(4, "little") + message], [connection, theirs, 1, 2])
        finally:
            os.close(theirs)
        return Forked(status)


class Forked:
    """What `subprocess.Popen` is to its caller: the process id, and how the process ended."""

    def __init__(self, status: int) -> None:
        self._status, self.returncode = status, None
        self.pid = int.from_bytes(os.read(status, 4), "little")

    def poll(self) -> int | None:
        return self._ended(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ended(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def _ended(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int.from_bytes(os.read(self._status, 4), "little", signed=True)
            os.close(self._status)
        return self.returncode


def _serve(channel: socket.socket) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # its children are keepers, which report what they wait for
    for module in IMPORTED:
        importlib.import_module(module)
    while True:
        head, descriptors, _, _ = socket.recv_fds(channel, 4, 4)
        if not head:
            return
        message = json.loads(channel.recv(int.from_bytes(head, "little"), socket.MSG_WAITALL))
        if os.fork() == 0:
            channel.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _keep(message, *descriptors)
            return
        for descriptor in descriptors:
            os.close(descriptor)


def _keep(message: dict, connection: int, status: int, output: int, errors: int) -> None:
    """Fork the worker, tell its process id, wait for its end and tell how it ended. Returns in the worker alone."""
    worker = os.fork()
    if worker:
        for descriptor in (connection, output, errors):
            os.close(descriptor)
        os.write(status, worker.to_bytes(4, "little"))
        code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
        os.write(status, code.to_bytes(4, "little", signed=True))
        os._exit(0)
    os.close(status)
    for descriptor, standard in ((output, 1), (errors, 2)):
        os.dup2(descriptor, standard)
        os.close(descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.clear()
    os.environ.update(message["environment"])
    os.chdir(message["folder"])
    sys.path[:0] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path not in sys.path]
    sys.argv[:] = [message["module"], str(connection)]
    random.seed()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*found in sys.modules.*", RuntimeWarning)
        runpy.run_module(message["module"], run_name="__main__", alter_sys=True)


def new_start(original, warm: dict):
    """A `verbot.parallel.workers._start` that forks; `original` serves modules that the test hides or adds."""
    from multiprocessing.connection import Pipe

    from verbot.parallel import workers

    def start(module: str, name: str) -> workers.Worker:
        if not warm["use"] or not module.startswith("verbot."):
            return original(module, name)
        if warm["process"] is None:
            warm["process"] = WarmProcess()
        ours, theirs = Pipe()
        path = os.pathsep.join([str(Path(workers.__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")])
        with theirs:
            process = warm["process"].start(module, theirs.fileno(), {**os.environ, "PYTHONPATH": path})
        return workers.Worker(name, process, ours)

    return start


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
