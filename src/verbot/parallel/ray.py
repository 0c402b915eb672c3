"""Work spread over a Ray cluster, in the place of local worker processes (`verbot.parallel.workers`).

What is done is a function of the work alone, so it does not matter who does it: tasks of a node that is lost are done again by
another (Moritz et al. 2018, "Ray"). Ray carries arguments and results between its processes by pickle, as it does
for everybody; nothing of that is kept in a file.
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
from verbot.parallel.workers import WorkerDied, WorkerError

RETRIES = 3  # of a task whose process or node is lost
AHEAD = 2  # tasks for each core, so that none waits for us
THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS"), "1")

Answer = Callable[[Sequence[Any]], list[Any]]
_ready: dict[str, Answer] = {}  # in a process of the cluster: what it made for the work that it was last given


class Cluster:
    """A Ray cluster that is connected to. Made by `open_cluster`."""

    def __init__(self, ray: Any):
        self._ray = ray
        self._task = ray.remote(num_cpus=1, max_retries=RETRIES)(_answer)

    @property
    def cores(self) -> int:
        """Of all nodes together."""
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def do(
        self, maker: str, briefing: Any, batches: Sequence[Sequence[Any]], horizon: Callable[[], int] | None = None
    ) -> Iterator[tuple[int, list[Any] | WorkerDied]]:
        """The number of each batch and its answers, as they come; or what it died of, where it took `RETRIES` processes along.

        At most `AHEAD` batches for each core are given out and not yet taken by the caller.

        Args:
            maker: ``"module:function"``: called once in each process with `briefing`, it returns what answers a batch.
            horizon: batches from this number on are not given out yet.

        Raises `WorkerError` with the traceback where that raises.
        """
        briefing, key, under_way, given = self._ray.put(briefing), uuid.uuid4().hex, dict[Any, int](), 0
        cores = self.cores
        try:
            while given < len(batches) or under_way:
                last = len(batches) if horizon is None else min(len(batches), horizon())
                while given < last and len(under_way) < AHEAD * cores:
                    under_way[self._task.remote(key, maker, briefing, list(batches[given]))] = given
                    given += 1
                (ended, *_), _ = self._ray.wait(list(under_way), num_returns=1)
                yield under_way.pop(ended), self._result(ended)
        finally:
            for task in under_way:
                self._ray.cancel(task)

    def in_order(self, maker: str, briefing: Any, batches: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
        """The answers to each batch, one after another. Raises as `do`, and `WorkerDied` for a batch that nobody survives."""
        done: dict[int, list[Any]] = {}
        waiting, behind = deque(range(len(batches))), 2 * AHEAD * self.cores  # what may be ready while a slow one is waited for
        for number, answers in self.do(maker, briefing, batches, lambda: waiting[0] + behind):
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
    """Connect to the cluster ``"ray:ADDRESS"``, or ``"ray"``: the one that RAY_ADDRESS names or that runs here, otherwise one is
    started on this machine. A connection that is open already is used, and left open.

    Raises `ConfigError` for another name or where nobody answers there, `MissingDependencyError` without Ray.
    """
    kind, _, address = name.partition(":")
    if kind != "ray":
        raise ConfigError(f"there is no cluster {name!r}; expected 'ray', or 'ray:ADDRESS' such as 'ray:10.0.0.1:6379'")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
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


def shared_out(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Batches of at most `size`, in order.

    Example:
        >>> shared_out(range(5), 2)
        [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [items[start : start + size] for start in range(0, len(items), size)]


def _answer(key: str, maker: str, briefing: Any, batch: list[Any]) -> list[Any]:
    """A task: what `maker` made of the briefing is kept for the next one of the same work."""
    if key not in _ready:
        _ready.clear()
        module, _, name = maker.partition(":")
        _ready[key] = getattr(importlib.import_module(module), name)(briefing)
    return _ready[key](batch)
