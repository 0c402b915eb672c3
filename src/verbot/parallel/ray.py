"""Work distributed over a Ray cluster, instead of local worker processes (`verbot.parallel.workers`).

The result of a task is a function of its arguments alone. If a node is lost, another node repeats its tasks with the same result
(Moritz et al. 2018, "Ray"). Ray passes arguments and results between its processes by pickle; none of it is stored in a file.
"""

from __future__ import annotations

import importlib
import os
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from verbot.errors import ConfigError, missing
from verbot.parallel.workers import PREFETCH, WorkerDied, WorkerError

RETRIES = 3  # of a task whose process or node is lost
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")

Answer = Callable[[Sequence[Any]], list[Any]]
_ready: dict[str, Answer] = {}  # in a process of the cluster: the answering function of its last work, by key


class Cluster:
    """A connected Ray cluster. Made by `open_cluster`."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)

    @property
    def cores(self) -> int:
        """The number of cores of all nodes."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def do(
        self, maker: str, setup: Any, batches: Sequence[Sequence[Any]], horizon: Callable[[], int] | None = None
    ) -> Iterator[tuple[int, list[Any] | WorkerDied]]:
        """Yield the number of each batch with its answers, in order of completion.

        The answers are a `WorkerDied` if the batch ended `RETRIES` + 1 processes. At most `PREFETCH` batches per core are
        submitted at a time.

        Args:
            maker: ``"module:function"``. It is called once in each process with `setup` and returns a function that answers a
                batch.
            horizon: returns the number of the first batch that must not be submitted yet.

        Raises `WorkerError` with the traceback if the function raises.
        """
        setup, key, running, submitted = self._ray.put(setup), uuid.uuid4().hex, dict[Any, int](), 0
        cores = self.cores
        try:
            while submitted < len(batches) or running:
                last = len(batches) if horizon is None else min(len(batches), horizon())
                while submitted < last and len(running) < PREFETCH * cores:
                    running[self._task.remote(key, maker, setup, list(batches[submitted]))] = submitted
                    submitted += 1
                (ended, *_), _ = self._ray.wait(list(running), num_returns=1)
                yield running.pop(ended), self._result(ended)
        finally:
            for task in running:
                self._ray.cancel(task)

    def in_order(self, maker: str, setup: Any, batches: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
        """The answers to each batch, in order. Raises as `do`, and `WorkerDied` for a batch that repeatedly ends its process."""
        done: dict[int, list[Any]] = {}
        waiting, behind = deque(range(len(batches))), 2 * PREFETCH * self.cores  # finished batches kept while one is slow
        for number, answers in self.do(maker, setup, batches, lambda: waiting[0] + behind):
            if isinstance(answers, WorkerDied):
                raise answers
            done[number] = answers
            while waiting and waiting[0] in done:
                yield done.pop(waiting.popleft())

    def _result(self, ended: Any) -> list[Any] | WorkerDied:
        errors = self._ray.exceptions
        try:
            answers: list[Any] = self._ray.get(ended)
            return answers
        except errors.RayTaskError as error:
            raise WorkerError(f"a task on the cluster failed:\n{error}") from error
        except errors.RayError as error:
            return WorkerDied(f"a task on the cluster was lost {RETRIES + 1} times: {error}")


@contextmanager
def open_cluster(name: str) -> Iterator[Cluster]:
    """Connect to a Ray cluster. An open connection is used and left open.

    Args:
        name: ``"ray:ADDRESS"``, or ``"ray"`` for the cluster that RAY_ADDRESS names or that runs on this machine. If there is
            none, one is started on this machine.

    Raises `ConfigError` for another name or if no cluster answers, `MissingDependencyError` without Ray.
    """
    kind, _, address = name.partition(":")
    if kind != "ray":
        raise ConfigError(f"there is no cluster {name!r}; expected 'ray', or 'ray:ADDRESS' such as 'ray:10.0.0.1:6379'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage reports
    try:
        import ray
    except ModuleNotFoundError as error:
        raise missing(error) from error
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=address or None, runtime_env={"env_vars": THREADS}, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"no Ray cluster answers at {address or 'this machine'!r}: {error}") from error
    try:
        yield Cluster(ray)
    finally:
        if mine:
            ray.shutdown()


def split_batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Batches of at most `size`, in order.

    Example:
        >>> split_batches(range(5), 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def _answer(key: str, maker: str, setup: Any, batch: list[Any]) -> list[Any]:
    """Answer one batch. The function that `maker` made from `setup` is kept for further batches of the same work."""
    if key not in _ready:
        _ready.clear()
        module, _, name = maker.partition(":")
        _ready[key] = getattr(importlib.import_module(module), name)(setup)
    return _ready[key](batch)
