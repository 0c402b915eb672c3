"""Serves the page and its messages: one HTTP and WebSocket server for one user at a time.

A page has the arm only after it got its greeting, and only while its heartbeat is heard (`verbot.teleop.inputs`). Nothing that a
page does or leaves undone holds up the control loop.

`verbot.remote.pages` says who may open it: access requires the token in the address.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
import secrets
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from PIL import Image
from websockets.http11 import Request, Response

from verbot.errors import WireError
from verbot.remote.connection import Connection, ConnectionLimits
from verbot.remote.connections import ConnectionServer
from verbot.remote.heartbeat import BEAT_S
from verbot.remote.pages import SOCKET, PageAccess, page_file
from verbot.spec import UInt8Array
from verbot.teleop.inputs import MAX_BYTES, Inputs

LIMITS = ConnectionLimits(message_bytes=MAX_BYTES, connections=32, handshake_s=4.0)
AHEAD = 3  # unconfirmed frames at most; a slow connection skips frames instead of lagging
JPEG_QUALITY = 90
REPLACED, LEFT = 4001, 4000  # close codes: another page took over; the session has ended


class PageServer:
    """Serves the page from a background thread until closed, and passes its messages to `inputs`.

    An invalid message is answered with an error and the connection stays open. A message over the size limit closes it. A second
    page replaces the first. A page that does not read, or does not answer for some seconds, is dropped.

    Args:
        hello: the first message to a page; JSON.
        host: the interface to bind; the default is the loopback interface. On others the address and its token are not encrypted.
        port: 0 takes a free one; `url` contains it.

    Raises:
        ConfigError: the address cannot be bound.
    """

    def __init__(self, inputs: Inputs, hello: Mapping[str, Any], host: str = "127.0.0.1", port: int = 0):
        self._inputs, self._hello = inputs, hello
        self.token = secrets.token_urlsafe(18)
        self._access = PageAccess(host, self.token)
        self._lock = threading.Lock()
        self._page: Connection | None = None
        self._latest, self._frame = "", -1
        self._server = ConnectionServer(self, host, port, LIMITS, name="teleop-page")

    @property
    def port(self) -> int:
        return self._server.address[1]

    @property
    def url(self) -> str:
        """The address of the page with its token, which gives control of the robot."""
        return self._access.url(self.port)

    @property
    def connected(self) -> bool:
        return self._page is not None

    @property
    def waiting(self) -> bool:
        """Whether the page has not yet confirmed the latest frame."""
        return self.connected and self._inputs.seen < self._frame

    def show(self, state: Mapping[str, Any], images: Mapping[str, UInt8Array]) -> None:
        """Send the page a new `state` (JSON) and `images` uint8 (h, w, 3) by camera, unless nothing has changed.

        Returns without waiting for the page. A page that has not confirmed `AHEAD` frames gets no further one.
        """
        pictures = {name: _jpeg(image) for name, image in images.items()}
        text = json.dumps({**state, "images": pictures})
        with self._lock:
            page = self._page
            if page is None or text == self._latest or self._frame - self._inputs.seen >= AHEAD:
                return
            self._latest, self._frame = text, self._frame + 1
            page.post(f'{{"type": "state", "frame": {self._frame}, "state": {text}}}')

    def close(self) -> None:
        """End the session; within some seconds, whatever the page does."""
        page = self._page
        if page is not None:
            page.close(LEFT, "the session has ended")
        self._server.close()

    def __enter__(self) -> PageServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def admit(self, request: Request) -> Response | None:
        """None accepts a WebSocket; any other request gets its response here."""
        name, refused = self._access.check(request)
        if refused is not None:
            return refused
        return None if name == SOCKET else page_file("verbot.teleop", name)

    async def converse(self, connection: Connection) -> None:
        """Greet a page, then let it take over until it leaves."""
        await connection.send(json.dumps({"type": "hello", **self._hello}))
        self._take_over(connection)
        beats = asyncio.create_task(self._beat(connection))
        try:
            async for data in connection.messages(last=True):
                try:
                    self._put(connection, data)
                except WireError as error:
                    await connection.send(json.dumps({"type": "error", "message": str(error)}))
        finally:
            beats.cancel()
            with self._lock:
                if self._page is connection:
                    self._page = None
                    self._inputs.release()

    def _take_over(self, connection: Connection) -> None:
        with self._lock:
            before, self._page = self._page, connection
            self._latest, self._inputs.seen = "", self._frame
            self._inputs.restart()
        if before is not None:
            before.close(REPLACED, "another page took over")

    async def _beat(self, connection: Connection) -> None:
        """Send beats, after which the page dates its heartbeats, until another page has taken over."""
        while True:
            with self._lock:
                if self._page is not connection:
                    return
                number = self._inputs.beat()
            connection.post(json.dumps({"type": "beat", "beat": number}))
            await asyncio.sleep(BEAT_S)

    def _put(self, connection: Connection, data: str | bytes) -> None:
        """Take a message, unless another page took over meanwhile: nobody would release its keys."""
        with self._lock:
            if self._page is connection:
                self._inputs.put(data)


def _jpeg(image: UInt8Array) -> str:
    sink = io.BytesIO()
    Image.fromarray(image).save(sink, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
