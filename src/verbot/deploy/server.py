"""Serves any policy at one port: to `verbot.remote.RemotePolicy`, to openpi's and vla-eval's clients, and to Prometheus."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import http
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from websockets.http11 import Request, Response

from verbot.contracts import IdentifiedPolicy, Policy, RememberingPolicy, continuation_of
from verbot.deploy import openpi, vla_eval
from verbot.deploy.access import Access, Certificate, check_exposed, context_of
from verbot.deploy.arrivals import MOST_WAIT_S
from verbot.deploy.exchanges import MEMORY_BYTES, Exchange, Reply, RequestTiming, Served, VerbotExchange
from verbot.deploy.metrics import Metrics, ServerLoad
from verbot.deploy.observation_map import ObservationMap
from verbot.deploy.pages import PATHS, PUBLIC, Pages
from verbot.deploy.turns import BATCH, TurnRequest, Turns
from verbot.errors import ConfigError
from verbot.remote.client import PATH
from verbot.remote.codec import VERSION, WireLimits, encode
from verbot.remote.connections import Connection, ConnectionLimits, ConnectionServer, refusal
from verbot.spec import ActionChunk

MOST_OBSERVATIONS = 2**16  # of one request
PATIENCE_S = 60.0  # for other clients, some of which answer no ping while their simulator works
PROTOCOLS = {PATH: VerbotExchange, "/": openpi.RootExchange, "/vla-eval": vla_eval.VlaEvalExchange}


@dataclass(frozen=True)
class ServingOptions:
    """How much is served to whom.

    Args:
        observations: of one request, at most.
        clients: connections at once, at most.
        batch: observations predicted at once at most, while several clients ask; 1 predicts for one after another.
        wait_s: the longest that a prediction waits for clients that are about to ask; a client alone never waits.
        execute: actions of each chunk that a client of vla-eval gets, one for each observation.
        map: keys of other clients' observations, as ``TARGET=KEY``; see `verbot.deploy.observation_map.ObservationMap`.
        fit: resize other clients' images to the size of the spec's.
    """

    observations: int = 64
    clients: int = 256
    batch: int = BATCH
    wait_s: float = MOST_WAIT_S
    execute: int = 1
    map: tuple[str, ...] = ()
    fit: bool = False

    def __post_init__(self) -> None:
        for name in ("observations", "clients", "batch", "execute"):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= MOST_OBSERVATIONS:
                raise ConfigError(f"{name} is {value!r}; expected a whole number from 1 to {MOST_OBSERVATIONS}")
        if not 0 <= self.wait_s <= 1:
            raise ConfigError(f"wait_s is {self.wait_s!r}; expected 0 to 1 second")


class PolicyServer:
    """Serves `policy` from background threads until closed. Each client has one request at a time; several take turns.

    Each of `PROTOCOLS` has a path of its own, and `verbot.deploy.pages.PATHS` are pages. A message that cannot be read, or an
    observation that does not fit the policy's spec, is answered with an error and, but for openpi's clients, the connection stays
    open. Every chunk that leaves is checked (`ActionChunk.check`). How large a request may be follows from the spec; the greeting
    says it. Clients that send nothing, read nothing or are too many lose their connection.

    Args:
        host: the interface to bind. The default is the loopback interface, which only this machine reaches.
        port: 0 takes a free one; `url` contains it.
        token: what clients have to know; they send it as ``Authorization: Bearer TOKEN``.
        tls: the certificate and its key as PEM files, or a context. The address is then ``wss://``.
        origins: web pages that may connect, e.g. ``("https://robot.example",)``; none by default.
        insecure: serve other interfaces than the loopback without a token or without encryption. Everybody who reaches the
            interface may then use the policy.

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
        options: ServingOptions | None = None,
    ):
        if not insecure:
            check_exposed(host, token, tls)
        options = options or ServingOptions()
        self._access = Access(host, token, origins)
        context = context_of(tls)
        self._scheme = "ws" if context is None else "wss"
        self._served = _served(policy, options)
        self.metrics = Metrics()
        self._numbers = itertools.count()
        self._turns = Turns(policy, options.batch, options.wait_s, self.metrics.batch)
        about = {"robot": policy.spec.name, "identity": str(self._served.greeting["identity"])}
        self._pages = Pages(self._turns, self.metrics, about, lambda: self._server.refused)
        limits = ConnectionLimits(self._served.foreign_limits().message_bytes, connections=options.clients)
        try:
            self._server = ConnectionServer(self, host, port, limits, name="policy-server", tls=context)
        except BaseException:
            self._turns.close()
            raise

    @property
    def url(self) -> str:
        host, port = self._server.address
        return f"{self._scheme}://[{host}]:{port}" if ":" in host else f"{self._scheme}://{host}:{port}"

    @property
    def load(self) -> ServerLoad:
        """The last seconds, for people."""
        return self.metrics.load(self._server.refused)

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
        """None for a client that may connect, otherwise its page or its refusal; see `verbot.deploy.access`."""
        path = request.path.partition("?")[0]
        refused = self._access.admit(request, is_public=path in PUBLIC)
        if refused is not None:
            self.metrics.refused("token" if refused.status_code == http.HTTPStatus.UNAUTHORIZED else "origin")
            return refused
        if path in PATHS:
            return self._pages.answer(request)
        if path in PROTOCOLS:
            return None
        self.metrics.refused("path")
        return refusal(http.HTTPStatus.NOT_FOUND, f"nothing is here; there are {', '.join((*PROTOCOLS, *PATHS))}")

    async def converse(self, connection: Connection) -> None:
        """Answer one client until it leaves."""
        path = connection.path.partition("?")[0]
        exchange: Exchange = PROTOCOLS[path](self._served)
        client, previous_s = next(self._numbers), None
        if path != PATH:
            connection.silence_s = PATIENCE_S
        counted_as = exchange.name
        self.metrics.connected(counted_as, 1)
        try:
            if (greeting := exchange.greeting()) is not None:
                await connection.send(greeting)
            async for data in connection.messages():
                start_s = time.monotonic()
                reply = await self._reply_in_turn(client, exchange, data, previous_s)
                if reply.data is not None:
                    await connection.send(reply.data)
                self._count(exchange.name, reply, data, time.monotonic() - start_s)
                previous_s = time.monotonic() - start_s if reply.counted else previous_s
                if reply.close is not None:
                    connection.start_closing(reply.close, reply.error)
        finally:
            self.metrics.connected(counted_as, -1)

    def answer(self, data: bytes) -> bytes:
        """The answer of verbot's own protocol to one message: chunks, or an error of a named kind. Never raises."""
        exchange = VerbotExchange(self._served)
        try:
            chunks = self._turns.checked(self._turns.predict(exchange.read(data)))
            return exchange.reply(chunks).data  # type: ignore[return-value]
        except Exception as error:  # an error in the policy must not stop the other clients
            return exchange.reply(error).data  # type: ignore[return-value]

    async def _reply_in_turn(self, client: int, exchange: Exchange, data: bytes | str, previous_s: float | None) -> Reply:
        loop, start_s = asyncio.get_running_loop(), time.monotonic()
        answered: asyncio.Future[Reply] = loop.create_future()

        def finish(result: list[ActionChunk] | Exception) -> None:
            reply = exchange.reply(result, RequestTiming(time.monotonic() - start_s, request.predict_s, previous_s))
            with contextlib.suppress(RuntimeError):  # the server has stopped
                loop.call_soon_threadsafe(_set, answered, reply)

        request = TurnRequest(client, data, exchange.read, finish)
        self._turns.submit(request)
        return await answered

    def _count(self, protocol: str, reply: Reply, data: bytes | str, seconds: float) -> None:
        self.metrics.moved(protocol, len(data), len(reply.data or b""))
        if reply.counted or reply.error:
            self.metrics.request(protocol, seconds, reply.error)


def _served(policy: Policy, options: ServingOptions) -> Served:
    spec = policy.spec
    memory = policy.memory_bytes if isinstance(policy, RememberingPolicy) else None
    limits = WireLimits.of_requests(spec, options.observations, None if memory is None else 2 * memory + 2**14)
    greeting = {
        "verbot": VERSION,
        "spec": spec.to_json(),
        "identity": policy.identity if isinstance(policy, IdentifiedPolicy) else "",
        "limits": {"observations": options.observations, "message_bytes": limits.message_bytes},
        "continuation": continuation_of(policy),
    }
    encode(greeting)  # raises for a spec that cannot be sent
    mapped = functools.partial(ObservationMap.of, spec, given=options.map, fit=options.fit)
    maps = {"openpi": mapped(openpi.usual_keys(spec)), "vla-eval": mapped(vla_eval.usual_keys(spec))}
    kept = MEMORY_BYTES if memory is None else 2 * memory + 2**14
    return Served(spec, greeting, limits, None if memory is None else memory > 0, kept, maps, options.execute)


def _set(future: asyncio.Future[Any], value: Reply) -> None:
    if not future.done():
        future.set_result(value)
