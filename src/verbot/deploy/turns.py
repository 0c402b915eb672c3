"""Predicts for several clients in turns, so that none waits for the whole request of another."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from verbot.contracts import Policy
from verbot.errors import PolicyError, VerbotError
from verbot.spec import ActionChunk, Observation

BATCH = 16  # observations predicted at once at most, while several clients ask
READ_BYTES = 2**20  # requests read at most between two predictions, one at least
RECENT_S = 1.0  # a client counts among those that ask for so long after its last request


@dataclass
class TurnRequest:
    """A request of one client.

    Args:
        client: who asks; one request at a time.
        data: the request.
        read: makes it observations that fit the policy; raises `VerbotError`.
        finish: takes the chunks, one an observation, or the error.
    """

    client: int
    data: bytes | str
    read: Callable[[bytes | str], Sequence[Observation]]
    finish: Callable[[list[ActionChunk] | Exception], None]
    observations: Sequence[Observation] = ()
    chunks: list[ActionChunk] = field(default_factory=list)

    def rest(self, most: int) -> Sequence[Observation]:
        """The next observations without a chunk."""
        return self.observations[len(self.chunks) : len(self.chunks) + most]


class Turns:
    """Reads and predicts in one thread of its own.

    A client that asks alone has its requests predicted whole. While several ask, each prediction has room for `BATCH`
    observations, shared evenly. An error in a prediction for several is traced to the client that caused it, which is then
    predicted for alone until that succeeds.
    """

    def __init__(self, policy: Policy):
        self._policy, self._lock = policy, threading.Lock()
        self._changed, self._is_closed = threading.Condition(), False
        self._unread: deque[TurnRequest] = deque()
        self._ready: deque[TurnRequest] = deque()
        self._asked: dict[int, float] = {}
        self._suspects: set[int] = set()
        threading.Thread(target=self._run, name="policy-server-predict", daemon=True).start()

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
            parts = self._parts()
            if parts:
                try:
                    self._advance(parts)
                except BaseException as error:  # the thread goes on, and nobody waits for ever
                    for job, _ in parts:
                        self._ready = deque(each for each in self._ready if each is not job)
                        job.finish(_typed(error))
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
                self._asked[job.client] = time.monotonic()
            else:
                job.finish([])

    def _parts(self) -> list[tuple[TurnRequest, Sequence[Observation]]]:
        """What to predict next: jobs and some of their observations. The jobs go to the end of the queue."""
        if not self._ready:
            return []
        limit = time.monotonic() - RECENT_S
        self._asked = {client: last for client, last in self._asked.items() if last > limit}
        self._suspects &= self._asked.keys()
        if len(self._asked.keys() | {job.client for job in self._ready}) == 1:
            job = self._ready.popleft()
            return [(job, job.rest(len(job.observations)))]
        share = max(1, BATCH // len(self._ready))
        parts: list[tuple[TurnRequest, Sequence[Observation]]] = []
        for _ in range(min(BATCH, len(self._ready))):
            if self._ready[0].client in self._suspects:
                if parts:
                    break
                job = self._ready.popleft()
                return [(job, job.rest(share))]
            job = self._ready.popleft()
            parts.append((job, job.rest(share)))
        return parts

    def _advance(self, parts: list[tuple[TurnRequest, Sequence[Observation]]]) -> None:
        try:
            chunks = self.predict([observation for _, part in parts for observation in part])
        except BaseException as error:  # an error in the policy, or its `sys.exit`, must not stop the other clients
            if len(parts) > 1:
                for each in parts:
                    self._advance([each])
                return
            job, observations = parts[0]
            self._suspects.add(job.client)
            job.finish(_explained(error, observations))
            return
        if len(parts) == 1:
            self._suspects.discard(parts[0][0].client)
        start = 0
        for job, part in parts:
            self._take(job, chunks[start : start + len(part)])
            start += len(part)

    def _take(self, job: TurnRequest, chunks: Sequence[ActionChunk]) -> None:
        try:
            job.chunks += self.checked(chunks)
        except BaseException as error:  # the policy may have given anything
            return job.finish(_typed(error))
        if len(job.chunks) == len(job.observations):
            job.finish(job.chunks)
        else:
            self._ready.append(job)


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
