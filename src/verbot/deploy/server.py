"""Serves any policy over websockets to `verbot.remote.RemotePolicy`."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from websockets.exceptions import ConnectionClosed
from websockets.sync.server import ServerConnection, serve

from verbot.contracts import Policy
from verbot.errors import VerbotError, WireError
from verbot.remote.codec import MAX_BYTES, VERSION, chunk_to_wire, decode, encode, observation_from_wire


class PolicyServer:
    """Serves `policy` from a background thread until closed. Each connection is answered in order, one prediction at a time.

    A message that cannot be read, or an observation that does not fit the policy's spec, is answered with an error and the
    connection stays open.

    Args:
        host: the interface to bind. The default is the loopback interface, because the protocol has no authentication.
        port: 0 takes a free one; `url` contains it.

    Example:
        >>> from verbot.remote import RemotePolicy
        >>> with PolicyServer(policy) as server, RemotePolicy(server.url) as remote:  # doctest: +SKIP
        ...     remote.predict([observation])
    """

    def __init__(self, policy: Policy, host: str = "127.0.0.1", port: int = 0):
        self._policy, self._lock = policy, threading.Lock()
        self._server = serve(self._converse, host, port, max_size=MAX_BYTES, compression=None)
        self._thread = threading.Thread(target=self._server.serve_forever, name="policy-server", daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        host, port = self._server.socket.getsockname()[:2]
        return f"ws://[{host}]:{port}" if ":" in host else f"ws://{host}:{port}"

    def wait(self) -> None:
        """Block until the server is closed."""
        self._thread.join()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()

    def __enter__(self) -> PolicyServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _converse(self, connection: ServerConnection) -> None:
        try:
            connection.send(encode({"verbot": VERSION, "spec": self._policy.spec.to_json()}))
            for data in connection:
                connection.send(self.answer(data))
        except ConnectionClosed:
            pass  # the client disconnected during an answer

    def answer(self, data: bytes | str) -> bytes:
        """The answer to one message: chunks, or an error of a named kind. Never raises."""
        number: Any = None
        try:
            request = decode(data)  # type: ignore[arg-type]
            number = request.get("id")
            if type(number) is not int:
                number = None
                raise WireError("a request needs a whole number as its 'id'")
            records = request.get("observations")
            if not isinstance(records, list):
                raise WireError("a request needs a list of 'observations'")
            observations = [observation_from_wire(record) for record in records]
            for observation in observations:
                observation.check(self._policy.spec)
            with self._lock:
                chunks = self._policy.predict(observations)
            return encode({"id": number, "chunks": [chunk_to_wire(chunk) for chunk in chunks]})
        except VerbotError as error:
            return _error(number, type(error).__name__, str(error))
        except Exception as error:  # an error in the policy must not stop the other clients
            return _error(number, "PolicyError", f"{type(error).__name__}: {error}")


def _error(number: int | None, kind: str, message: str) -> bytes:
    return encode({"id": number, "error": {"kind": kind, "message": message[:2000]}})
