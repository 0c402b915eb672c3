"""A websocket server in one thread that no client can stop: bounded connections, bounded memory, a time limit on everything.

`ConnectionServer` accepts clients; a `WebsocketService` says who is admitted, and converses. It works on websockets' protocol
without its connections, so that nothing is read from a client before its last message was dealt with, and nothing is kept for
one that does not read. Idle and slow clients cost a descriptor each and no thread::

    class Echo:
        def admit(self, request):  # None admits a websocket; a Response answers a page or a refusal
            return None if request.path == "/echo" else refusal(http.HTTPStatus.NOT_FOUND, "nothing is here")

        async def converse(self, connection):
            async for message in connection.messages():
                await connection.send(message)

    server = ConnectionServer(Echo(), "127.0.0.1", 0, ConnectionLimits(message_bytes=2**16))

From other threads, messages are sent by `Connection.post`, and a connection is closed by `Connection.close`.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Protocol

from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from verbot.errors import ConfigError
from verbot.remote.connection import MORE_BYTES, TRY_AGAIN_LATER, Connection, ConnectionLimits, CountingReader, Room
from verbot.remote.notes import Notes

RETRY_S = 0.1  # after a connection could not be accepted
SEND_BUFFER = 2**17  # bytes that the system takes for a client; more would hide for long that it does not read
LINGERING, LINGER_S = 32, 0.5  # so many clients that are refused may first send their request, for so long
LOGGER = logging.getLogger("verbot.connections")


class WebsocketService(Protocol):
    """What a server does. Both methods run in the server's thread and must not block it."""

    def admit(self, request: Request) -> Response | None:
        """None accepts a websocket; any other request gets its response here."""
        ...

    async def converse(self, connection: Connection) -> None:
        """Talk to one client until `Connection.messages` ends; the connection is closed afterwards."""
        ...


class ConnectionServer:
    """Serves `service` from a background thread until closed.

    Args:
        host: the interface to bind.
        port: 0 takes a free one; `address` has it.
        name: of the thread.
        tls: the certificate to show; None serves without encryption.

    Raises:
        ConfigError: the address cannot be bound.
    """

    def __init__(
        self,
        service: WebsocketService,
        host: str,
        port: int,
        limits: ConnectionLimits,
        name: str = "server",
        tls: ssl.SSLContext | None = None,
    ):
        self.limits = limits
        self._room = Room.of(limits, most_connections(), self.call)
        self._service, self._tls, self._notes = service, tls, Notes(LOGGER)
        self._listener = _listen(host, port)
        self._connections: set[Connection] = set()
        self._sockets: list[socket.socket] = []
        self._refusing, self.refused = 0, 0  # that are answered now, and all
        self._busy = _busy(self._room.most)
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(lambda loop, context: self._notes.add(str(context.get("message"))))
        self._stop = asyncio.Event()
        self.address: tuple[str, int] = self._listener.getsockname()[:2]
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Block until the server is closed."""
        self._thread.join()

    def close(self) -> None:
        """Stop, within `ConnectionLimits.close_s` twice, whatever the clients do."""
        self.call(self._stop.set)
        self._thread.join(4 * self.limits.close_s)

    def call(self, function: Callable[..., object], *arguments: object) -> None:
        """Call in the server's thread, unless the server has stopped."""
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:
            pass  # its loop is closed, and every connection with it

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        accepting = self._loop.create_task(self._accept())
        await self._stop.wait()
        accepting.cancel()
        await asyncio.wait([accepting])
        self._listener.close()
        for connection in list(self._connections):
            connection.start_closing(1001, "the server closes")
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.close_s)
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.drop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.limits.close_s)

    async def _accept(self) -> None:
        while True:
            try:
                client, _ = await self._loop.sock_accept(self._listener)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
            except OSError as error:  # no descriptor or memory is left, or the client has left: later there may be
                self._notes.add(f"no connection could be accepted ({error})")
                await asyncio.sleep(RETRY_S)
                continue
            if has_room := self._has_room():
                self._sockets.append(client)
            task = self._loop.create_task(self._serve(client) if has_room else self._refuse(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _has_room(self) -> bool:
        """Whether one more fits; the client that is silent for the longest makes room, if nobody waits for it any more."""
        self._sockets = [each for each in self._sockets if each.fileno() >= 0]
        if len(self._sockets) < self._room.most:
            return True
        limit = time.monotonic() - self.limits.idle_s
        silent = [each for each in self._connections if each.silent_since is not None and each.silent_since < limit]
        if not silent:
            return False
        longest = min(silent, key=lambda each: each.silent_since or 0.0)
        longest.start_closing(TRY_AGAIN_LATER, f"silent for more than {self.limits.idle_s:g} s, and others wait")
        longest.drop()
        return True

    async def _refuse(self, client: socket.socket) -> None:
        """Answer 503. Clients take an answer that comes before their request for an error, so a few are waited for."""
        self._notes.add(f"a connection was refused: {self._room.most} are open")
        self._refusing, self.refused = self._refusing + 1, self.refused + 1
        try:
            if self._tls is None and self._refusing <= LINGERING:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(LINGER_S):
                        await self._loop.sock_recv(client, MORE_BYTES)
            if self._tls is None:
                client.send(self._busy)
        except OSError:
            pass  # it has left already
        finally:
            self._refusing -= 1
            client.close()

    async def _serve(self, client: socket.socket) -> None:
        connection: Connection | None = None
        try:
            async with asyncio.timeout(self.limits.handshake_s):
                connection = await self._open(client)
                self._connections.add(connection)
                admitted = await connection.handshake(self._service.admit)
            if admitted:
                await self._service.converse(connection)
        except OSError:  # it has left, or did not keep to a limit of time
            pass
        except Exception as error:
            self._notes.add(f"a client was dropped: {type(error).__name__}: {error}")
        finally:
            if connection is not None:
                await connection.finish()
                self._connections.discard(connection)

    async def _open(self, client: socket.socket) -> Connection:
        reader = CountingReader(limit=MORE_BYTES // 2, loop=self._loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=self._loop)
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: protocol, client, ssl=self._tls, ssl_handshake_timeout=self.limits.handshake_s if self._tls else None
        )
        return Connection(self._room, self.limits, reader, asyncio.StreamWriter(transport, protocol, reader, self._loop))


def most_connections() -> int:
    """As many as leave half of the process's descriptors to others."""
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**16 if soft == resource.RLIM_INFINITY else max(4, (soft - 64) // 2)


def refusal(status: http.HTTPStatus, text: str) -> Response:
    """A response without a page, for `WebsocketService.admit`."""
    body = text.encode() + b"\n"
    headers = {"Content-Type": "text/plain; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}
    return Response(status.value, status.phrase, Headers(headers), body)


def _busy(most: int) -> bytes:
    """The answer to a client for whom there is no room."""
    body = f"ServerBusy: {most} clients are connected, as many as this server takes; try again later\n".encode()
    fields = "Connection: close\r\nRetry-After: 1\r\nContent-Type: text/plain; charset=utf-8"
    return f"HTTP/1.1 503 Service Unavailable\r\n{fields}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise ConfigError(f"there is no port {port}; expected 0 (a free one) to {2**16 - 1}")
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = min(found, key=lambda each: each[0] != socket.AF_INET)
        listener = socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"nothing can be served at {host}:{port}: {error}; another port or host is needed") from error
    listener.setblocking(False)
    return listener
