"""Predicts for several clients in turns, so that none waits for the whole request of another."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from verbot.contracts import Policy
from verbot.deploy.arrivals import MOST_WAIT_S, Arrivals
from verbot.errors import PolicyError, VerbotError
from verbot.spec import ActionChunk, Observation

BATCH = 16  # observations predicted at once at most, while several clients ask
READ_BYTES = 2**20  # requests read at most between two predictions, one at least


@dataclass
class TurnRequest:
    """A request of one client.

    Args:
        client: who asks; one request at a time.
        data: the request.
        read: makes it observations that fit the policy; raises `VerbotError`.
        finish: takes the chunks, one an observation, or the error.
        predict_s: what the predictions for it took, those for others in the same batch included.
    """

    client: int
    data: bytes | str
    read: Callable[[bytes | str], Sequence[Observation]]
    finish: Callable[[list[ActionChunk] | Exception], None]
    observations: Sequence[Observation] = ()
    chunks: list[ActionChunk] = field(default_factory=list)
    predict_s: float = 0.0

    def rest(self, most: int) -> Sequence[Observation]:
        """The next observations without a chunk."""
        return self.observations[len(self.chunks) : len(self.chunks) + most]


class Turns:
    """Reads and predicts in one thread of its own.

    A client that asks alone has its requests predicted whole and at once. While several ask, each prediction has room for `batch`
    observations, shared evenly, and waits some milliseconds for clients that are about to ask (`verbot.deploy.arrivals`). An
    error in a prediction for several is traced to the client that caused it, which is then predicted for alone until that
    succeeds.

    Args:
        batch: observations predicted at once at most, while several clients ask; 1 predicts for one after another.
        wait_s: the longest wait of a prediction for further requests.
        predicted: gets the number of observations of each prediction, and the seconds that it took.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        policy: Policy,
        batch: int = BATCH,
        wait_s: float = MOST_WAIT_S,
        predicted: Callable[[int, float], None] = lambda count, seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.batch, self._predicted, self._arrivals, self._clock = batch, predicted, Arrivals(wait_s), clock
        self._policy, self._lock = policy, threading.Lock()
        self._changed, self._is_closed = threading.Condition(), False
        self._unread: deque[TurnRequest] = deque()
        self._ready: deque[TurnRequest] = deque()
        self._suspects: set[int] = set()
        threading.Thread(target=self._run, name="policy-server-predict", daemon=True).start()

    @property
    def wait_s(self) -> float:
        """The longest wait of a prediction for further requests."""
        return self._arrivals.most_wait_s

    @wait_s.setter
    def wait_s(self, seconds: float) -> None:
        self._arrivals.most_wait_s = seconds

    def submit(self, job: TurnRequest) -> None:
        with self._changed:
            self._unread.append(job)
            self._changed.notify()

    def close(self) -> None:
        """Begin no further prediction."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One checked chunk an observation. Raises `PolicyError` and `SpecError`, and what the policy raises."""
        if not observations:
            return []
        with self._lock:
            chunks = self._policy.predict(observations)
        if len(chunks) != len(observations):
            raise PolicyError(f"the policy gave {len(chunks)} chunks for {len(observations)} observations")
        return list(chunks)

    def checked(self, chunks: Sequence[ActionChunk]) -> list[ActionChunk]:
        """The chunks in single precision. Raises `SpecError` or `PolicyError` for one that no robot can execute."""
        out = []
        for chunk in chunks:
            if not isinstance(chunk, ActionChunk):
                raise PolicyError(f"the policy gave {type(chunk).__name__}; expected an ActionChunk")
            chunk.check(self._policy.spec)
            if chunk.values.dtype != np.float32:
                with np.errstate(over="ignore"):  # too large a number is infinite, which the next check finds
                    chunk = replace(chunk, values=chunk.values.astype(np.float32))
                chunk.check(self._policy.spec)
            out.append(chunk)
        return out

    def _run(self) -> None:
        while self._wait():
            self._read()
            self._gather()
            parts = self._parts()
            if parts:
                try:
                    self._advance(parts)
                except BaseException as error:  # the thread goes on, and nobody waits for ever
                    for job, _ in parts:
                        self._ready = deque(each for each in self._ready if each is not job)
                        self._finish(job, _typed(error))
            del parts  # keeps no request until the next

    def _wait(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._unread or self._ready or self._is_closed)
            return not self._is_closed

    def _read(self) -> None:
        """Read the oldest requests; those that are wrong are finished."""
        budget = READ_BYTES
        while budget > 0 and self._unread:
            job = self._unread.popleft()
            budget -= len(job.data)
            try:
                job.observations, job.data = job.read(job.data), b""
            except BaseException as error:  # whatever a message holds, this thread goes on
                job.finish(_typed(error))
                continue
            if job.observations:
                self._ready.append(job)
                self._arrivals.asked(job.client, self._clock())
            else:
                job.finish([])

    def _gather(self) -> None:
        """Wait for clients that are about to ask, while the batch has room."""
        since = self._clock()
        while self._ready and sum(len(job.observations) - len(job.chunks) for job in self._ready) < self.batch:
            wait_s = self._arrivals.wait_s(since, self._clock(), {job.client for job in self._ready})
            if wait_s <= 0:
                return
            with self._changed:
                self._changed.wait_for(lambda: self._unread or self._is_closed, timeout=wait_s)
                if self._is_closed:
                    return
            self._read()

    def _parts(self) -> list[tuple[TurnRequest, Sequence[Observation]]]:
        """What to predict next: jobs and some of their observations. The jobs go to the end of the queue."""
        if not self._ready:
            return []
        recent = self._arrivals.recent(self._clock())
        self._suspects &= recent
        if len(recent | {job.client for job in self._ready}) == 1:
            job = self._ready.popleft()
            return [(job, job.rest(len(job.observations)))]
        share = max(1, self.batch // len(self._ready))
        parts: list[tuple[TurnRequest, Sequence[Observation]]] = []
        for _ in range(min(self.batch, len(self._ready))):
            if self._ready[0].client in self._suspects:
                if parts:
                    break
                job = self._ready.popleft()
                return [(job, job.rest(share))]
            job = self._ready.popleft()
            parts.append((job, job.rest(share)))
        return parts

    def _advance(self, parts: list[tuple[TurnRequest, Sequence[Observation]]]) -> None:
        observations, start_s = [observation for _, part in parts for observation in part], self._clock()
        try:
            chunks = self.predict(observations)
        except BaseException as error:  # an error in the policy, or its `sys.exit`, must not stop the other clients
            if len(parts) > 1:
                for each in parts:
                    self._advance([each])
                return
            self._suspects.add(parts[0][0].client)
            self._finish(parts[0][0], _explained(error, observations))
            return
        if len(parts) == 1:
            self._suspects.discard(parts[0][0].client)
        took_s = self._clock() - start_s
        self._arrivals.predicted(len(observations), took_s)
        self._predicted(len(observations), took_s)
        start = 0
        for job, part in parts:
            job.predict_s += took_s
            self._take(job, chunks[start : start + len(part)])
            start += len(part)

    def _take(self, job: TurnRequest, chunks: Sequence[ActionChunk]) -> None:
        try:
            job.chunks += self.checked(chunks)
        except BaseException as error:  # the policy may have given anything
            return self._finish(job, _typed(error))
        if len(job.chunks) == len(job.observations):
            self._finish(job, job.chunks)
        else:
            self._ready.append(job)

    def _finish(self, job: TurnRequest, result: list[ActionChunk] | Exception) -> None:
        self._arrivals.answered(job.client, self._clock())
        job.finish(result)


def text_of(error: BaseException) -> str:
    """The message of an error of other people's code, which may itself fail."""
    try:
        return str(error)
    except BaseException:
        return "its message cannot be shown"


def _typed(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else PolicyError(f"{type(error).__name__}: {text_of(error)}")


def _explained(error: BaseException, observations: Sequence[Observation]) -> Exception:
    """The error as a typed one; a memory that came with the observations may be its cause."""
    if isinstance(error, VerbotError):
        return error
    remembered = any(observation.memory is not None for observation in observations)
    hint = "; if the memory that was sent is of another policy, begin the episode anew without it" if remembered else ""
    return PolicyError(f"{type(error).__name__}: {text_of(error)}{hint}")
