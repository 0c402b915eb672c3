"""One websocket connection in a thread of its own, so that no call of it blocks beyond its deadline."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from verbot.remote.codec import MAX_BYTES

# What a connection may raise: the system, the protocol, and an address that no socket takes.
FAULTS = (OSError, WebSocketException, ValueError)
CLOSE_S = 1.0  # time limit for saying goodbye


class LateError(Exception):
    """Nothing arrived before the deadline; the connection is given up."""


@dataclass(frozen=True)
class Address:
    """Where a server listens, and what it is shown: `headers` of the handshake, `ssl_context` for ``wss://``."""

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ssl_context: ssl.SSLContext | None = None


class Transport:
    """Opens a connection and exchanges messages over it, one at a time.

    The looking up of names, the handshakes, sending and receiving happen in a daemon thread. Callers wait for its results with a
    deadline, in seconds of `time.monotonic`. After a fault, or a missed deadline, it cannot be used again.

    Args:
        open_s: time limit for the handshake.
    """

    def __init__(self, address: Address, open_s: float):
        self._address, self._open_s, self._given_up = address, open_s, False
        self._socket: ClientConnection | None = None
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._results: queue.SimpleQueue[bytes | str | Exception] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="remote-policy", daemon=True)
        self._thread.start()

    def greeting(self, deadline: float) -> bytes | str:
        """The first message of the server. Raises `LateError`, or a fault of the connection, one of `FAULTS`."""
        return self._wait(deadline)

    def exchange(self, request: bytes, deadline: float) -> bytes | str:
        """Send `request` and return the next message. Raises as `greeting`."""
        self._requests.put(request)
        return self._wait(deadline)

    def give_up(self) -> None:
        """End the connection at once, whatever its thread is doing."""
        self._given_up = True
        self._requests.put(None)
        if self._socket is not None:
            _shut(self._socket.socket)

    def close(self, limit_s: float) -> None:
        """Say goodbye, for at most `limit_s` and `CLOSE_S`."""
        self._requests.put(None)
        self._thread.join(min(limit_s, CLOSE_S))
        self.give_up()

    def _wait(self, deadline: float) -> bytes | str:
        try:
            result = self._results.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty as error:
            self.give_up()
            raise LateError from error
        except BaseException:  # interrupted: the answer would be taken for that to the next request
            self.give_up()
            raise
        if isinstance(result, Exception):
            raise result
        return result

    def _run(self) -> None:
        try:
            with connect(
                self._address.url,
                ssl=self._address.ssl_context,
                additional_headers=dict(self._address.headers),
                open_timeout=self._open_s,
                close_timeout=CLOSE_S,
                max_size=MAX_BYTES,
                ping_interval=None,  # a prediction may take as long as its own time limit says
                compression=None,
            ) as connection:
                self._socket = connection
                if not self._given_up:
                    self._results.put(connection.recv())
                    while (request := self._requests.get()) is not None:
                        connection.send(request)
                        self._results.put(connection.recv())
        except Exception as error:  # handed to whoever waits
            self._results.put(error)


def _shut(raw: object) -> None:
    """Wake every thread that reads from or writes to the socket. With TLS its own `shutdown` would wait for them."""
    if isinstance(raw, socket.socket):
        try:
            socket.socket.shutdown(raw, socket.SHUT_RDWR)
        except OSError:
            pass  # it is closed
