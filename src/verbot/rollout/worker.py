"""The one worker program, ``python -m verbot.rollout.worker``, and its counterpart for tasks of a cluster.

Its first message is a `Setup`, which says what the worker is; each further message is one of that setup's requests. So
collection, DAgger, evaluation and reinforcement differ in their setups and requests alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from verbot.parallel.ray import Cluster, open_cluster, shared_out
from verbot.parallel.workers import Channel, Worker, in_order, serve, workers

MODULE = "verbot.rollout.worker"
ANSWERER = f"{MODULE}:answerer"


class Service(Protocol):
    """Answers requests; it may look ahead in them. A request that only informs has no answer."""

    def answers(self, requests: Iterator[Any]) -> Iterator[Any]: ...


class Setup(Protocol):
    """Crosses a pipe, so it must survive pickling; so must requests and answers."""

    def open(self) -> AbstractContextManager[Service]:
        """What answers the requests, in the worker's process; whatever it holds is released on the way out."""
        ...


def work(channel: Channel) -> None:
    """A worker's life: a setup, then requests until the parent hangs up."""
    setup: Setup = channel.receive()
    with setup.open() as service:
        for answer in service.answers(_received(channel)):
            channel.send(answer)


def answerer(setup: Setup) -> Callable[[Sequence[Any]], list[Any]]:
    """What answers a batch of requests in a process of a cluster; its service lives as long as the process."""
    opened = contextlib.ExitStack()
    service = opened.enter_context(setup.open())

    def answer(batch: Sequence[Any], kept_open: contextlib.ExitStack = opened) -> list[Any]:
        return list(service.answers(iter(batch)))

    return answer


@contextlib.contextmanager
def open_workers(setups: Sequence[Setup], name: str) -> Iterator[list[Worker]]:
    """A worker for each of `setups`, closed on the way out."""
    with workers(MODULE, len(setups), name) as team:
        for worker, setup in zip(team, setups, strict=True):
            worker.send(setup)
        yield team


def answers_from_workers(setup: Setup, requests: Sequence[Any], count: int, name: str) -> Generator[Any]:
    """The answers of `count` workers to `requests`, in order; each request has one (see `verbot.parallel.workers.in_order`)."""
    yield from in_order(MODULE, count, name, setup, requests)


def answers_from_cluster(cluster: str, setup: Setup, requests: Sequence[Any], batch: int) -> Generator[Any]:
    """As `answers_from_workers`, by tasks of `batch` requests on a cluster (see `verbot.parallel.ray.open_cluster`)."""
    with open_cluster(cluster) as opened:
        for answers in cluster_answers(opened, setup, shared_out(requests, batch)):
            yield from answers


def cluster_answers(cluster: Cluster, setup: Setup, batches: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
    """The answers to each batch, in order."""
    return cluster.in_order(ANSWERER, setup, batches)


def _received(channel: Channel) -> Iterator[Any]:
    while True:
        yield channel.receive()


if __name__ == "__main__":
    # Under the module's own name, so that messages are of the same classes on both sides.
    from verbot.rollout.worker import work as _work

    serve(_work)
