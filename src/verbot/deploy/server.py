"""Serves any policy over websockets to `verbot.remote.RemotePolicy`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from websockets.http11 import Request, Response

from verbot.contracts import IdentifiedPolicy, Policy, RememberingPolicy, continuation_of
from verbot.deploy.access import Access, Certificate, check_exposed, context_of
from verbot.deploy.turns import TurnRequest, Turns, text_of
from verbot.errors import ConfigError, VerbotError, WireError
from verbot.remote.codec import VERSION, WireLimits, chunk_to_wire, decode, encode, observation_from_wire
from verbot.remote.connections import Connection, ConnectionLimits, ConnectionServer
from verbot.spec import ActionChunk, Observation, check_memory

MOST_OBSERVATIONS = 2**16  # of one request


class PolicyServer:
    """Serves `policy` from background threads until closed. Each client has one request at a time; several take turns.

    A message that cannot be read, or an observation that does not fit the policy's spec, is answered with an error and the
    connection stays open. Every chunk that leaves is checked (`ActionChunk.check`). How large a request may be follows from the
    spec; the greeting says it. Clients that send nothing, read nothing or are too many lose their connection.

    Args:
        host: the interface to bind. The default is the loopback interface, which only this machine reaches.
        port: 0 takes a free one; `url` contains it.
        token: what clients have to know; they send it as ``Authorization: Bearer TOKEN``.
        tls: the certificate and its key as PEM files, or a context. The address is then ``wss://``.
        origins: web pages that may connect, e.g. ``("https://robot.example",)``; none by default.
        insecure: serve other interfaces than the loopback without a token or without encryption. Everybody who reaches the
            interface may then use the policy.
        observations: of one request, at most.

    What the policy says about its memory (`verbot.contracts.RememberingPolicy`) bounds a request too.

    Raises:
        ConfigError: an argument is wrong, or the address cannot be bound, or is reached by other machines and `token` or `tls` is
            not given.

    Example:
        >>> from verbot.remote import RemotePolicy
        >>> with PolicyServer(policy) as server, RemotePolicy(server.url) as remote:  # doctest: +SKIP
        ...     remote.predict([observation])
    """

    def __init__(
        self,
        policy: Policy,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        tls: Certificate | None = None,
        origins: Sequence[str] = (),
        insecure: bool = False,
        observations: int = 64,
    ):
        if not insecure:
            check_exposed(host, token, tls)
        if type(observations) is not int or not 1 <= observations <= MOST_OBSERVATIONS:
            raise ConfigError(f"observations is {observations!r}; expected a whole number from 1 to {MOST_OBSERVATIONS}")
        self._access = Access(host, token, origins)
        context = context_of(tls)
        self._spec, self._scheme = policy.spec, "ws" if context is None else "wss"
        remembered = 2 * policy.memory_bytes + 2**14 if isinstance(policy, RememberingPolicy) else None
        self._limits = WireLimits.of_requests(self._spec, observations, remembered)
        self._greeting = encode(
            {
                "verbot": VERSION,
                "spec": self._spec.to_json(),
                "identity": policy.identity if isinstance(policy, IdentifiedPolicy) else "",
                "limits": {"observations": observations, "message_bytes": self._limits.message_bytes},
                "continuation": continuation_of(policy),
            }
        )
        self._numbers = itertools.count()
        self._turns = Turns(policy)
        try:
            self._server = ConnectionServer(
                self, host, port, ConnectionLimits(self._limits.message_bytes), name="policy-server", tls=context
            )
        except BaseException:
            self._turns.close()
            raise

    @property
    def url(self) -> str:
        host, port = self._server.address
        return f"{self._scheme}://[{host}]:{port}" if ":" in host else f"{self._scheme}://{host}:{port}"

    def wait(self) -> None:
        """Block until the server is closed."""
        self._server.wait()

    def close(self) -> None:
        """Stop within two seconds, whatever the clients do."""
        self._turns.close()
        self._server.close()

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def admit(self, request: Request) -> Response | None:
        """None for a client that may connect, otherwise its response; see `verbot.deploy.access`."""
        return self._access.admit(request)

    async def converse(self, connection: Connection) -> None:
        """Answer one client until it leaves."""
        client = next(self._numbers)
        await connection.send(self._greeting)
        async for data in connection.messages():
            await connection.send(await self._answer_in_turn(client, data))

    def answer(self, data: bytes | str) -> bytes:
        """The answer to one message: chunks, or an error of a named kind. Never raises."""
        request = _Request(self._limits)
        try:
            observations = self._read(request, data)
            return request.answer(self._turns.checked(self._turns.predict(observations)))
        except Exception as error:  # an error in the policy must not stop the other clients
            return request.answer(error)

    async def _answer_in_turn(self, client: int, data: bytes | str) -> bytes:
        request, loop = _Request(self._limits), asyncio.get_running_loop()
        answered = loop.create_future()

        def finish(result: list[ActionChunk] | Exception) -> None:
            answer = request.answer(result)
            with contextlib.suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(_set, answered, answer)

        self._turns.submit(TurnRequest(client, data, lambda data: self._read(request, data), finish))
        answer: bytes = await answered
        return answer

    def _read(self, request: _Request, data: bytes | str) -> Sequence[Observation]:
        observations = request.read(data)
        for observation in observations:
            observation.check(self._spec)
            check_memory(observation.memory)
        return observations


class _Request:
    """A request while it is answered; it has a number once that could be read."""

    def __init__(self, limits: WireLimits):
        self._limits = limits
        self._number: int | None = None

    def read(self, data: bytes | str) -> list[Observation]:
        request = decode(data, self._limits)  # type: ignore[arg-type]
        number = request.get("id")
        if type(number) is not int:
            raise WireError("a request needs a whole number as its 'id'")
        self._number = number
        records = request.get("observations")
        if not isinstance(records, list):
            raise WireError("a request needs a list of 'observations'")
        if len(records) > self._limits.observations:
            raise WireError(f"a request has {len(records)} observations; at most {self._limits.observations} are answered")
        return [observation_from_wire(record) for record in records]

    def answer(self, result: Sequence[ActionChunk] | Exception) -> bytes:
        if not isinstance(result, Exception):
            try:
                return encode({"id": self._number, "chunks": [chunk_to_wire(chunk) for chunk in result]})
            except Exception as error:  # the policy may have put anything into a chunk
                result = error
        is_typed = isinstance(result, VerbotError)
        kind, text = (type(result).__name__, text_of(result)) if is_typed else ("PolicyError", _named(result))
        readable = text[:2000].encode(errors="replace").decode()  # what the policy says may be no text
        return encode({"id": self._number, "error": {"kind": kind, "message": readable}})


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {text_of(error)}"


def _set(future: asyncio.Future[Any], value: bytes) -> None:
    if not future.done():
        future.set_result(value)
