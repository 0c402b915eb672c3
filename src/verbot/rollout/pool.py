"""The worker processes of an evaluation, or the cores of a cluster instead."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from multiprocessing.connection import wait
from typing import Any

from verbot.parallel.ray import Cluster, open_cluster, split_batches
from verbot.parallel.workers import PREFETCH, Worker, WorkerError
from verbot.rollout.evaluation import EvaluationSetup, NoMoreJobs, Ready, RecordVideo, TimePredictions
from verbot.rollout.results import EpisodeResult, Job
from verbot.rollout.vector import make_result
from verbot.rollout.worker import HANDLER, cluster_answers, open_workers


class Pool:
    """Workers with a loaded policy, from `open_pool`."""

    def __init__(self, workers: Sequence[Worker], slots: int):
        self._workers, self._slots = list(workers), slots
        self._stopped: set[Worker] = set()

    @property
    def alive(self) -> bool:
        """Whether any worker is left."""
        return bool(self._workers)

    def play(self, jobs: Iterable[Job]) -> Iterator[EpisodeResult]:
        """Yield the result of every job, as the episodes end. A pool can be used once.

        Running episodes of a worker that dies become errors. Raises `WorkerError` if no worker is left.
        """
        waiting = deque(jobs)
        running: dict[Worker, dict[str, Job]] = {worker: {} for worker in self._workers}
        for worker in self._workers * (self._slots + PREFETCH):
            self._send_next_job(worker, waiting, running[worker])
        while any(running.values()):
            busy = {worker.connection: worker for worker, own in running.items() if own}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                try:
                    result: EpisodeResult = worker.receive()
                    del running[worker][result.key]
                    yield result
                    self._send_next_job(worker, waiting, running[worker])
                except WorkerError as error:
                    yield from self._remove(worker, running, error)
        if waiting:
            raise WorkerError(f"all evaluation workers died with {len(waiting)} episodes left")

    def videos(self, requests: Sequence[RecordVideo]) -> list[bytes]:
        """The mp4 of each request, after `play`."""
        videos: list[bytes] = []
        for start in range(0, len(requests), len(self._workers)):
            batch = list(zip(self._workers, requests[start : start + len(self._workers)], strict=False))
            for worker, request in batch:
                worker.send(request)
            videos += [worker.receive() for worker, _ in batch]
        return videos

    def time_predictions(self, jobs: Sequence[Job], count: int) -> list[float]:
        """Seconds of `count` predictions from one observation, after `play`, on one core while the others are idle."""
        self._workers[0].send(TimePredictions(tuple(jobs), count))
        seconds: list[float] = self._workers[0].receive()
        return seconds

    def _send_next_job(self, worker: Worker, waiting: deque[Job], own: dict[str, Job]) -> None:
        """Send the next job, or once `NoMoreJobs`, so that the worker does not wait for jobs to fill its slots."""
        if waiting:
            job = waiting.popleft()
            own[job.key] = job
            worker.send(job)
        elif worker not in self._stopped:
            self._stopped.add(worker)
            worker.send(NoMoreJobs())

    def _remove(self, worker: Worker, running: dict[Worker, dict[str, Job]], error: WorkerError) -> Iterator[EpisodeResult]:
        lost = running.pop(worker)
        self._workers.remove(worker)
        for job in lost.values():
            yield make_result(job, {}, "error", str(error))


class ClusterPool:
    """The cores of a cluster (`verbot.parallel.ray`), with the interface of `Pool`."""

    alive = True

    def __init__(self, cluster: Cluster, setup: EvaluationSetup):
        self._cluster, self._setup = cluster, setup

    def play(self, jobs: Iterable[Job]) -> Iterator[EpisodeResult]:
        """Yield the result of every job, as batches end.

        Batches that are lost with a node are repeated. If a batch never survives, its jobs become errors.
        """
        waiting = list(jobs)
        size = max(1, min(4 * self._setup.slots, -(-len(waiting) // (4 * self._cluster.cores))))
        batches = split_batches(waiting, size)
        for number, answers in self._cluster.do(HANDLER, self._setup, batches):
            if isinstance(answers, WorkerError):
                answers = [make_result(job, {}, "error", str(answers)) for job in batches[number]]
            yield from answers

    def videos(self, requests: Sequence[RecordVideo]) -> list[bytes]:
        """The mp4 of each request."""
        return [video for videos in cluster_answers(self._cluster, self._setup, split_batches(requests, 1)) for video in videos]

    def time_predictions(self, jobs: Sequence[Job], count: int) -> list[float]:
        """Seconds of `count` predictions from one observation, after `play`, on one core of some node."""
        ((seconds,),) = cluster_answers(self._cluster, self._setup, [[TimePredictions(tuple(jobs), count)]])
        measured: list[float] = seconds
        return measured


@contextlib.contextmanager
def open_pool(setup: EvaluationSetup, count: int, cluster: str | None = None) -> Iterator[Pool | ClusterPool]:
    """Start `count` workers and load the policy. Raises `WorkerError` with the traceback if that fails.

    Args:
        cluster: use its cores instead of worker processes.
    """
    if cluster is not None:
        with open_cluster(cluster) as opened:
            yield ClusterPool(opened, setup)
        return
    with open_workers([setup] * count, "evaluation worker") as opened_workers:
        for worker in opened_workers:
            worker.send(Ready())
        for worker in opened_workers:
            answer: Any = worker.receive()
            assert isinstance(answer, Ready)
        yield Pool(opened_workers, setup.slots)
