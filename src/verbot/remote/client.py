"""A client that makes a policy on another computer available as a local one."""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.exceptions import ConnectionClosed, InvalidStatus, InvalidURI

from verbot.errors import ConfigError, ConnectionLostError, SpecError, WireError
from verbot.remote.addresses import host_name, is_loopback
from verbot.remote.codec import MAX_BYTES, chunk_from_wire, decode, encode, observation_to_wire
from verbot.remote.greeting import Greeting
from verbot.remote.transport import FAULTS, Address, LateError, Transport
from verbot.spec import ActionChunk, Observation, RobotSpec

FIRST_DELAY_S, LONGEST_DELAY_S = 0.1, 1.0  # between two attempts to connect
MAX_EXTRAS = 256  # entries of a chunk's extras, nested ones included
MAX_EXTRAS_BYTES = 4 * 2**20
PATH = "/verbot"  # of verbot's own protocol on a server
BUSY_S = 1.0  # pause before a server that says that it is busy is asked again


class RemotePolicy:
    """A `verbot.Policy` behind a websocket. Threads may share it; their predictions wait for each other.

    A broken connection is opened anew, with pauses of 0.1 to 1 s between attempts, and the request is repeated once: a policy is
    stateless. The server must then serve the same robot and policy as before. After a prediction that met no server in all its
    time, each further one makes one attempt and fails at once. A server that says that it is busy is asked again after a second,
    while time is left. More observations than the server reads at once are sent in several requests.

    Args:
        url: e.g. ``"ws://127.0.0.1:8000"``, as in `verbot.deploy.PolicyServer.url`, or ``"wss://…"`` for TLS. Without a path
            `PATH` is asked for.
        timeout_s: time limit for the first connection, and for each prediction: connecting, sending and receiving together.
        token: the server's token. It is sent to other computers with TLS only.
        cafile: certificates (PEM) that sign the server's, instead of those of the system.
        ssl_context: instead of `cafile`, for client certificates and other settings of TLS.

    Raises:
        ConnectionLostError: no server answers, or not in time. A later prediction may succeed.
        WireError: the server cannot be used, could not predict (with its error and message), or its answer is no chunk of finite
            actions for the robot.
        ConfigError: an argument is wrong.
    """

    def __init__(
        self,
        url: str,
        timeout_s: float = 10.0,
        token: str | None = None,
        cafile: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ):
        if not (math.isfinite(timeout_s) and timeout_s > 0):
            raise ConfigError(f"timeout_s is {timeout_s}; expected seconds, more than 0")
        self.url, self._timeout_s, self._count = url, timeout_s, 0
        self._address = Address(_with_path(url), _headers(url, token), _context(url, cafile, ssl_context))
        self._lock, self._closed, self._lost = threading.Lock(), False, True
        self._transport: Transport | None = None
        self._greeting: Greeting | None = None
        self._connected(time.monotonic() + timeout_s)

    @property
    def spec(self) -> RobotSpec:
        return self._server.spec

    @property
    def identity(self) -> str:
        """The content hash of the policy that is served; ``""`` if the server does not say."""
        return self._server.identity

    @property
    def continuation(self) -> str:
        """How the policy that is served continues planned actions; ``""`` if it does not, or the server does not say."""
        return self._server.continuation

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's units."""
        deadline = time.monotonic() + self._timeout_s
        records = [observation_to_wire(observation) for observation in observations]
        with self._turn(deadline):
            most = self._server.limits.get("observations", max(1, len(records)))
            parts = [records[i : i + most] for i in range(0, len(records), most)] or [records]
            return [chunk for part in parts for chunk in self._predicted(part, deadline)]

    def _predicted(self, records: list[dict[str, Any]], deadline: float) -> list[ActionChunk]:
        """The chunks of one request, or of several where it would be too large for the server."""
        if len(records) > 1 and sum(map(_size, records)) > min(MAX_BYTES, self._server.limits.get("message_bytes", MAX_BYTES)):
            half = len(records) // 2
            return self._predicted(records[:half], deadline) + self._predicted(records[half:], deadline)
        self._count += 1
        request = encode({"id": self._count, "observations": records})
        self._server.check_request(self.url, len(records), len(request))
        return self._read(self._exchange(request, deadline), len(records))

    def close(self) -> None:
        """Close the connection; takes at most `timeout_s`, and at most a second."""
        self._closed = True
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.close(self._timeout_s)

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def _server(self) -> Greeting:
        assert self._greeting is not None  # the constructor has received it
        return self._greeting

    @contextmanager
    def _turn(self, deadline: float) -> Iterator[None]:
        if not self._lock.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise ConnectionLostError(f"{self.url} is still answering another thread after {self._timeout_s:g} s")
        try:
            yield
        finally:
            self._lock.release()

    def _exchange(self, request: bytes, deadline: float) -> bytes | str:
        """The server's answer. Repeats the request once if the connection breaks first."""
        is_last = False
        while True:
            transport = self._connected(deadline)
            try:
                return transport.exchange(request, deadline)
            except LateError as error:
                # A late answer would be taken for the next request's, so this connection is not used again.
                self._drop()
                raise ConnectionLostError(f"{self.url} did not answer within {self._timeout_s:g} s") from error
            except FAULTS as error:
                self._drop()
                is_busy = _is_busy(error) and time.monotonic() + BUSY_S < deadline
                if is_last and not is_busy:
                    raise ConnectionLostError(f"the connection to {self.url} broke twice: {_plain(error)}") from error
                is_last = not is_busy
                if is_busy:
                    time.sleep(BUSY_S)

    def _read(self, data: bytes | str, count: int) -> list[ActionChunk]:
        """The chunks of an answer, each one that the robot can execute. An answer that cannot be read ends the connection."""
        answered = False
        try:
            answer = decode(data)  # type: ignore[arg-type]
            fault, number = answer.get("error"), answer.get("id")
            if number != self._count and not (number is None and isinstance(fault, dict)):
                raise WireError(f"{self.url} answered request {_plain(number)}; expected {self._count}")
            answered = True
            if isinstance(fault, dict):
                raise WireError(f"{self.url} answered {_plain(fault.get('kind'))}: {_plain(fault.get('message'))}")
            chunks = answer.get("chunks")
            if not isinstance(chunks, list) or len(chunks) != count:
                raise WireError(f"{self.url} did not answer with one chunk for each of {count} observations")
            return [self._checked(chunk) for chunk in chunks]
        finally:
            if not answered:
                self._drop()

    def _checked(self, record: Any) -> ActionChunk:
        try:
            chunk = chunk_from_wire(record)
            chunk.check(self._server.spec)
            if chunk.value is not None and not math.isfinite(chunk.value):
                raise SpecError(f"a chunk of actions has the value {chunk.value}; expected a finite number")
            _check_extras(chunk.extras)
        except SpecError as error:
            raise WireError(f"{self.url} answered with a chunk that cannot be executed: {error}") from error
        return chunk

    def _connected(self, deadline: float) -> Transport:
        """The open connection; a new one if there is none. Its greeting must name the same robot and policy as before."""
        delay = FIRST_DELAY_S
        while (transport := self._transport) is None:
            self._check_open()
            attempt = Transport(self._address, max(0.01, deadline - time.monotonic()))
            try:
                greeting = Greeting.read(attempt.greeting(deadline), self.url)
                if self._greeting is not None:
                    greeting.check_same(self._greeting, self.url)
            except LateError as error:
                self._lost = True
                raise ConnectionLostError(f"no policy server answers at {self.url}: none within {self._timeout_s:g} s") from error
            except WireError:
                attempt.give_up()
                raise
            except FAULTS as error:
                attempt.give_up()
                _raise_if_permanent(self.url, error)
                delay = max(delay, BUSY_S) if _is_busy(error) else delay
                if self._lost or time.monotonic() + delay >= deadline:
                    self._lost = True
                    raise ConnectionLostError(f"no policy server answers at {self.url}: {_reason(error)}") from error
                time.sleep(delay)
                delay = min(2 * delay, LONGEST_DELAY_S)
            else:
                self._transport, self._greeting, self._lost = attempt, greeting, False
                if self._closed:  # while it connected; `close` may have found nothing
                    self._drop()
                    attempt.give_up()
                    self._check_open()
        return transport

    def _check_open(self) -> None:
        if self._closed:
            raise WireError(f"this policy of {self.url} was closed; make a new RemotePolicy")

    def _drop(self) -> None:
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.give_up()


def _raise_if_permanent(url: str, error: Exception) -> None:
    """Raise `WireError` for a fault that a further attempt meets too."""
    if isinstance(error, InvalidStatus) and error.response.status_code == 401:
        raise WireError(f"{url} refuses this client (HTTP 401); give RemotePolicy the server's token") from error
    if isinstance(error, InvalidStatus) and error.response.status_code == 403:
        reason = (error.response.body or b"").decode(errors="replace").strip() or "it does not say why"
        raise WireError(f"{url} refuses this client (HTTP 403): {_plain(reason)}") from error
    if isinstance(error, ssl.SSLCertVerificationError):
        raise WireError(
            f"the certificate of {url} is not trusted: {error.verify_message}; give RemotePolicy its cafile"
        ) from error
    if isinstance(error, InvalidURI) or (isinstance(error, InvalidStatus) and 300 <= error.response.status_code < 500):
        raise WireError(f"no policy server answers at {url}: {_plain(error)}") from error


def _reason(error: Exception) -> str:
    """What a fault of the connection says, and what the server said of it."""
    body = (error.response.body or b"").decode(errors="replace") if isinstance(error, InvalidStatus) else ""
    return f"{_plain(error)}{': ' if body else ''}{_plain(body).strip()[:200]}"


def _is_busy(error: Exception) -> bool:
    """Whether the server says that it has too much to do: 1013 of an open connection, HTTP 503 of a new one."""
    if isinstance(error, ConnectionClosed):
        return error.rcvd is not None and error.rcvd.code == 1013
    return isinstance(error, InvalidStatus) and error.response.status_code == 503


def _size(value: Any) -> int:
    """Bytes of a part of a request, and not fewer."""
    if isinstance(value, dict):
        return 16 + sum(16 + len(str(name)) * 4 + _size(item) for name, item in value.items())
    if isinstance(value, str):
        return 4 * len(value) + 16
    return 16 if value is None or isinstance(value, int | float) else int(value.nbytes) + 128


def _with_path(url: str) -> str:
    """The address of verbot's own protocol on a server; other software is served at other paths."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url  # connecting says what is wrong
    is_bare = parts.scheme in ("ws", "wss") and parts.netloc and parts.path in ("", "/")
    return urlunsplit(parts._replace(path=PATH)) if is_bare else url


def _headers(url: str, token: str | None) -> dict[str, str]:
    if token is None:
        return {}
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ConfigError(
            "the token is empty or has other characters than letters, digits and signs; copy it as the server shows it"
        )
    if not url.startswith("wss://") and not is_loopback(host_name(url)):
        raise ConfigError(f"a token would go to {url} in plain text; use wss://, or a tunnel to 127.0.0.1")
    return {"Authorization": f"Bearer {token}"}


def _context(url: str, cafile: str | None, ssl_context: ssl.SSLContext | None) -> ssl.SSLContext | None:
    if cafile is None and ssl_context is None:
        return None
    if not url.startswith("wss://"):
        raise ConfigError(f"{url} does not use TLS, but certificates are given; use wss://")
    if cafile is None or ssl_context is not None:
        return ssl_context
    try:
        return ssl.create_default_context(cafile=cafile)
    except OSError as error:  # `ssl.SSLError` is one
        raise ConfigError(f"{cafile} has no certificates that can be read: {error}") from error


def _check_extras(extras: Any) -> None:
    """Raise `SpecError` for more than a robot has use for."""
    entries, size, left = 0, 0, [extras]
    while left:
        value = left.pop()
        entries += 1
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list):
            left += value
        elif isinstance(value, str | bytes):
            size += len(value)
        elif value is not None and not isinstance(value, bool | int | float):
            size += value.nbytes  # the decoder makes nothing else than arrays
        if entries > MAX_EXTRAS or size > MAX_EXTRAS_BYTES:
            raise SpecError(f"the extras of a chunk are more than {MAX_EXTRAS} entries or {MAX_EXTRAS_BYTES} bytes")


def _plain(value: Any) -> str:
    """Text of a server, for a message on one line of a terminal."""
    text = str(value) if isinstance(value, str | Exception) else repr(value)
    return "".join(character if character.isprintable() else " " for character in text[:1000])
