"""A client that makes a policy on another computer available as a local one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from websockets.exceptions import InvalidHandshake, InvalidURI, WebSocketException
from websockets.sync.client import connect

from verbot.errors import WireError
from verbot.remote.codec import MAX_BYTES, VERSION, chunk_from_wire, decode, encode, observation_to_wire
from verbot.spec import ActionChunk, Observation, RobotSpec


class RemotePolicy:
    """A `verbot.Policy` behind a websocket. It holds one connection, which one thread may use.

    Args:
        url: e.g. ``"ws://127.0.0.1:8000"``, as in `verbot.deploy.PolicyServer.url`.
        timeout_s: time limit for the connection and for each answer.

    Raises:
        WireError: no server answers, the connection broke, or the server could not predict (with its error and message).
    """

    def __init__(self, url: str, timeout_s: float = 10.0):
        self.url, self._timeout_s, self._count = url, timeout_s, 0
        self._stack = ExitStack()
        try:
            self._socket = self._stack.enter_context(connect(url, open_timeout=timeout_s, max_size=MAX_BYTES, compression=None))
        except (OSError, InvalidHandshake, InvalidURI, TimeoutError) as error:
            raise WireError(f"no policy server answers at {url}: {error}") from error
        try:
            greeting = self._receive()
            if greeting.get("verbot") != VERSION:
                raise WireError(f"{url} speaks version {greeting.get('verbot')!r} of the wire format; expected {VERSION}")
            self._spec = RobotSpec.from_json(greeting.get("spec") or {})
        except Exception:
            self.close()
            raise

    @property
    def spec(self) -> RobotSpec:
        return self._spec

    def predict(self, observations: Sequence[Observation]) -> list[ActionChunk]:
        """One chunk per observation, in the robot's units."""
        self._count += 1
        request = encode({"id": self._count, "observations": [observation_to_wire(o) for o in observations]})
        try:
            self._socket.send(request)
        except (WebSocketException, OSError) as error:
            raise WireError(f"the connection to {self.url} broke: {error}") from error
        answer = self._receive()
        if isinstance(answer.get("error"), dict):
            fault = answer["error"]
            raise WireError(f"{self.url} answered {fault.get('kind')}: {fault.get('message')}")
        if answer.get("id") != self._count:
            raise WireError(f"{self.url} answered request {answer.get('id')!r}; expected {self._count}")
        chunks = answer.get("chunks")
        if not isinstance(chunks, list) or len(chunks) != len(observations):
            raise WireError(f"{self.url} did not answer with one chunk for each of {len(observations)} observations")
        return [chunk_from_wire(chunk) for chunk in chunks]

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _receive(self) -> dict[str, Any]:
        try:
            return decode(self._socket.recv(timeout=self._timeout_s))  # type: ignore[arg-type]
        except TimeoutError as error:
            # A late answer would be taken for the next request's, so this connection cannot be used again.
            self.close()
            raise WireError(f"{self.url} did not answer within {self._timeout_s} s") from error
        except (WebSocketException, OSError) as error:
            raise WireError(f"the connection to {self.url} broke: {error}") from error
