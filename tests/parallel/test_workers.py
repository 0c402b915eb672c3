"""Workers answer, and their errors and deaths are reported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from verbot.parallel.workers import WorkerError, workers

ECHO = """
    import os, signal, time
    from verbot.errors import ConfigError
    from verbot.parallel.workers import serve

    def work(channel):
        while True:
            message = channel.receive()
            if message == "raise":
                raise ValueError("no such value")
            if message == "refuse":
                raise ConfigError("that cannot be")
            if message == "lack":
                raise ModuleNotFoundError("No module named 'torch'", name="torch")
            while message == "work":
                time.sleep(0.01)
            while message == "compute":
                pass
            if message == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            channel.send((os.getpid(), os.environ["OMP_NUM_THREADS"], message))

    if __name__ == "__main__":
        serve(work)
"""


@pytest.fixture
def echo(tmp_path, monkeypatch):
    (tmp_path / "echo_worker.py").write_text(textwrap.dedent(ECHO))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    return "echo_worker"


def test_each_worker_answers_with_one_thread_of_its_own(echo):
    with workers(echo, 2) as running:
        for number, worker in enumerate(running):
            worker.send({"n": number})
        answers = [worker.receive() for worker in running]
    assert [answer[1:] for answer in answers] == [("1", {"n": 0}), ("1", {"n": 1})]
    assert len({answer[0] for answer in answers}) == 2
    assert all(worker.process.poll() is not None for worker in running)


def test_an_exception_arrives_with_its_traceback(echo):
    with workers(echo, 1, "echo") as (worker,), pytest.raises(WorkerError, match=r"(?s)echo 1 failed.*ValueError: no such value"):
        worker.send("raise")
        worker.receive()


def test_a_killed_worker_is_noticed_with_its_exit_code(echo):
    with workers(echo, 1, "echo") as (worker,):
        worker.send("die")
        with pytest.raises(WorkerError, match="echo 1 ended early with exit code -9"):
            worker.receive()
        with pytest.raises(WorkerError, match="exit code -9"):
            worker.send("more")


@pytest.mark.parametrize(
    "then",
    [
        pytest.param("", id="that waits"),
        pytest.param("w.send('work');", id="that works"),
        pytest.param("w.send('compute');", id="that computes", marks=pytest.mark.soak),  # starves the other tests
    ],
)
def test_no_worker_outlives_a_killed_parent(echo, then):
    script = (
        "import sys, time; from verbot.parallel.workers import workers\n"
        f"with workers({echo!r}, 1) as (w,): w.send(0); pid = w.receive()[0]; {then} print(pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    with parent:
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 60
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_the_check_recognizes_a_live_process():
    assert _runs(os.getpid())


def test_an_error_on_purpose_is_one_line(echo):
    for message, expected in (
        ("refuse", "ConfigError: that cannot be"),
        ("lack", r"MissingDependencyError: .*'verbot\[torch\]'"),
    ):
        with workers(echo, 1) as (worker,):
            worker.send(message)
            with pytest.raises(WorkerError, match=f"^worker 1: {expected}$"):
                worker.receive()


@pytest.mark.soak  # three processes that compute without an end starve the other tests
def test_workers_that_do_not_end_are_closed_together(echo, monkeypatch):
    monkeypatch.setattr("verbot.parallel.workers.CLOSING_S", 0.3)
    with workers(echo, 3) as running:
        for worker in running:
            worker.send(0)
            worker.receive()
            worker.send("compute")
        began = time.monotonic()
    assert time.monotonic() - began < 0.8
    assert [worker.process.poll() for worker in running] == [-signal.SIGKILL] * 3
