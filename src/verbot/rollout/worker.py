"""The worker program of all rollouts, ``python -m verbot.rollout.worker``, and its counterpart for clusters.

The first message to a worker is a `Setup`, which defines its kind; further messages are requests of that setup. Collection,
DAgger, evaluation and reinforcement learning differ only in setups and requests.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from verbot.parallel.ray import Cluster, open_cluster, split_batches
from verbot.parallel.workers import Channel, Worker, in_order, serve, workers

MODULE = "verbot.rollout.worker"
HANDLER = f"{MODULE}:make_handler"


class Service(Protocol):
    """Answers requests, possibly after reading further ones. Some kinds of requests have no answer."""

    def answers(self, requests: Iterator[Any]) -> Iterator[Any]: ...


class Setup(Protocol):
    """Describes a worker. Setups, requests and answers are sent through pipes, so they must support pickling."""

    def open(self) -> AbstractContextManager[Service]:
        """Open the service that answers requests, in the worker's process. Resources are released on exit."""
        ...


def work(channel: Channel) -> None:
    """The main function of a worker: receive a setup, then answer requests until the pipe is closed."""
    setup: Setup = channel.receive()
    with setup.open() as service:
        for answer in service.answers(_received(channel)):
            channel.send(answer)


def make_handler(setup: Setup) -> Callable[[Sequence[Any]], list[Any]]:
    """A handler of batches of requests in a process of a cluster; the service lives as long as the process."""
    opened = contextlib.ExitStack()
    service = opened.enter_context(setup.open())

    # The default argument refers to the exit stack: otherwise garbage collection would close the service.
    def handle(batch: Sequence[Any], kept_open: contextlib.ExitStack = opened) -> list[Any]:
        return list(service.answers(iter(batch)))

    return handle


@contextlib.contextmanager
def open_workers(setups: Sequence[Setup], name: str) -> Iterator[list[Worker]]:
    """Start one worker for each setup; they are closed on exit."""
    with workers(MODULE, len(setups), name) as opened:
        for worker, setup in zip(opened, setups, strict=True):
            worker.send(setup)
        yield opened


def answers_from_workers(setup: Setup, requests: Sequence[Any], count: int, name: str) -> Generator[Any]:
    """The answers of `count` workers to `requests`, in order, one for each request (see `verbot.parallel.workers.in_order`)."""
    yield from in_order(MODULE, count, name, setup, requests)


def answers_from_cluster(cluster: str, setup: Setup, requests: Sequence[Any], batch: int) -> Generator[Any]:
    """As `answers_from_workers`, by tasks of `batch` requests on a cluster (see `verbot.parallel.ray.open_cluster`)."""
    with open_cluster(cluster) as opened:
        for answers in cluster_answers(opened, setup, split_batches(requests, batch)):
            yield from answers


def cluster_answers(cluster: Cluster, setup: Setup, batches: Sequence[Sequence[Any]]) -> Iterator[list[Any]]:
    """The answers to each batch, in order."""
    return cluster.in_order(HANDLER, setup, batches)


def _received(channel: Channel) -> Iterator[Any]:
    while True:
        yield channel.receive()


if __name__ == "__main__":
    # Imported under the module's name, so that message classes are identical on both sides.
    from verbot.rollout.worker import work as _work

    serve(_work)
