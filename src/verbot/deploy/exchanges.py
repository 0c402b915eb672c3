"""What a protocol of a policy server does with one client, and verbot's own protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from verbot.deploy.observation_map import ObservationMap
from verbot.deploy.turns import text_of
from verbot.errors import PolicyError, SpecError, VerbotError, WireError
from verbot.remote.codec import MAX_BYTES, WireLimits, chunk_to_wire, decode, encode, observation_from_wire
from verbot.spec import ActionChunk, Memory, Observation, RobotSpec, check_memory

FITTED_BYTES = 2**23  # of one image that the server resizes
MEMORY_BYTES = 2**27  # of a memory that the server keeps, where the policy does not say how large it becomes
ERROR_LENGTH = 2000


@dataclass(frozen=True)
class RequestTiming:
    """Seconds that a request took.

    Args:
        total_s: from its receipt to its result.
        predict_s: of the predictions for it.
        previous_s: the client's request before, until its answer was sent; None for the first.
    """

    total_s: float = 0.0
    predict_s: float = 0.0
    previous_s: float | None = None


@dataclass(frozen=True)
class Reply:
    """What a client gets for a message.

    Args:
        data: None for no answer.
        error: the kind of the error that it says.
        close: the code with which the connection is closed afterwards.
        counted: whether the message was a request for actions.
    """

    data: bytes | str | None = None
    error: str = ""
    close: int | None = None
    counted: bool = True


class Exchange(Protocol):
    """One client's conversation, one message at a time. `name` is that of the protocol."""

    name: str

    def greeting(self) -> bytes | None:
        """What the server says first."""
        ...

    def read(self, data: bytes | str) -> Sequence[Observation]:
        """The observations to predict for; none for a message that asks for no prediction. Raises `VerbotError`."""
        ...

    def reply(self, result: Sequence[ActionChunk] | Exception, timing: RequestTiming) -> Reply:
        """The answer to the message that was read last. Never raises."""
        ...


@dataclass(frozen=True)
class Served:
    """What the exchanges of a server have in common.

    Args:
        greeting: of verbot's own protocol, as a map.
        limits: of verbot's own messages.
        remembers: whether the policy has a memory; None if it does not say.
        memory_bytes: the most that the server keeps of it for a client.
        observations: what the keys of other clients' observations mean, by protocol.
        execute: actions of a chunk that a client gets which takes one at a time.
    """

    spec: RobotSpec
    greeting: dict[str, Any]
    limits: WireLimits
    remembers: bool | None
    memory_bytes: int
    observations: dict[str, ObservationMap]
    execute: int = 1

    def foreign_limits(self) -> WireLimits:
        """Those of messages of other clients, which hold one observation and may hold more entries beside it."""
        own, fit = self.limits, any(each.fit for each in self.observations.values())
        image = max(own.array_bytes, FITTED_BYTES) if fit else own.array_bytes
        # Other clients send numbers in double precision.
        size = min(MAX_BYTES, max(own.message_bytes, (len(self.spec.cameras) + 1) * image + 2**16))
        return replace(own, message_bytes=size, array_bytes=max(image, 8 * self.spec.state_size), items=2**12, containers=2**13)


class KeptMemory:
    """The memory of a policy for one client whose protocol does not carry it. Dropped when an episode begins or ends."""

    def __init__(self, served: Served):
        self._served, self._found = served, False
        self.memory: Memory | None = None

    @property
    def is_needed(self) -> bool:
        """Whether the policy has a memory, as far as it is known."""
        return bool(self._served.remembers) or self._found

    def keep(self, memory: Memory | None) -> None:
        """Raises `PolicyError` for a memory that is larger than the policy says."""
        self.memory, self._found = None, self._found or memory is not None
        size = sum(array.nbytes for array in (memory or {}).values())
        if size > self._served.memory_bytes:
            raise PolicyError(f"the policy's memory has {size} bytes; at most {self._served.memory_bytes} are kept for a client")
        self.memory = memory

    def drop(self) -> None:
        self.memory = None


class VerbotExchange:
    """verbot's own protocol (`verbot.remote.codec`): memories travel with the observations, so nothing is kept for a client."""

    name = "verbot"

    def __init__(self, served: Served):
        self._served, self._greeting = served, encode(served.greeting)
        self._number: int | None = None

    def greeting(self) -> bytes:
        return self._greeting

    def read(self, data: bytes | str) -> list[Observation]:
        self._number = None
        return self.read_record(decode(data, self._served.limits))  # type: ignore[arg-type]

    def read_record(self, request: dict[str, Any]) -> list[Observation]:
        """The observations of a message that was decoded."""
        number, records, most = request.get("id"), request.get("observations"), self._served.limits.observations
        self._number = number if type(number) is int else None
        if self._number is None:
            raise WireError("a request needs a whole number as its 'id'")
        if not isinstance(records, list):
            raise WireError("a request needs a list of 'observations'")
        if len(records) > most:
            raise WireError(f"a request has {len(records)} observations; at most {most} are answered")
        observations = [observation_from_wire(record) for record in records]
        for observation in observations:
            observation.check(self._served.spec)
            check_memory(observation.memory)
        return observations

    def reply(self, result: Sequence[ActionChunk] | Exception, timing: RequestTiming = RequestTiming()) -> Reply:
        if not isinstance(result, Exception):
            try:
                return Reply(encode({"id": self._number, "chunks": [chunk_to_wire(chunk) for chunk in result]}))
            except Exception as error:  # the policy may have put anything into a chunk
                result = error
        kind, text = kind_and_text(result)
        return Reply(encode({"id": self._number, "error": {"kind": kind, "message": text}}), kind)


def kind_and_text(error: Exception) -> tuple[str, str]:
    """The kind of an error and its message. Errors of other people's code are of the kind ``"PolicyError"``."""
    is_typed = isinstance(error, VerbotError)
    kind, text = type(error).__name__, text_of(error)
    if not is_typed:
        kind, text = "PolicyError", f"{kind}: {text}"
    return kind, text[:ERROR_LENGTH].encode(errors="replace").decode()  # what the policy says may be no text


def line_of(error: Exception) -> tuple[str, str]:
    """The kind of an error, and one line ``KIND: MESSAGE`` for clients that show text."""
    kind, text = kind_and_text(error)
    return kind, "".join(c if c.isprintable() else " " for c in f"{kind}: {' '.join(text.split())}")[:ERROR_LENGTH]


def finite(value: Any, label: str) -> float:
    """A time of a message. Raises `SpecError` for what is no finite number."""
    if type(value) not in (int, float) or not abs(value) < 1e12:
        raise SpecError(f"{label} is {str(value)[:40]!r}; expected seconds")
    return float(value)
