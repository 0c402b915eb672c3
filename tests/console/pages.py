"""The page's end of a console's connection, without a browser, and a console that runs in a thread."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from verbot.console import ConsoleConfig, run_console

WAIT_S = 20


class ConsolePage:
    """A page that confirms frames and keeps its heartbeat as the browser's does."""

    def __init__(self, url, origin=None):
        base = f"http://{urlsplit(url).netloc}"
        self._open, address = ExitStack(), url.replace("http", "ws") + "socket"
        self.socket = self._open.enter_context(connect(address, origin=origin or base, compression=None, max_size=None))
        self.beat, self.drives, self.about, self.state, self.history = -1, None, None, None, []
        self.previews, self.errors, self.heard, self.listens, self.stops, self.images = [], [], [], [], 0, {}
        self.confirms, self.is_alive = True, True
        self.hello = json.loads(self.socket.recv(timeout=WAIT_S))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._open.close()

    def send(self, **message):
        self._live()
        self.socket.send(json.dumps(message))

    def obey(self, text, anyway=False, search=False):
        self.send(type="obey", text=text, anyway=anyway, search=search)

    def until(self, condition):
        """Read messages until `condition(self)` holds."""
        deadline = time.monotonic() + WAIT_S
        while not condition(self):
            if time.monotonic() > deadline:
                raise TimeoutError(f"state {self.state}, errors {self.errors}")
            self.read()
        return self

    def read(self):
        message = json.loads(self.socket.recv(timeout=WAIT_S))
        match message["type"]:
            case "beat":
                self.beat = message["beat"]
            case "role":
                self.drives = message["drives"]
            case "about":
                self.about, self.history = message["about"], message["history"]
            case "state":
                self.state, self.images, self.heat = message["state"], message["images"], message["heat"]
                if self.confirms:
                    self.socket.send(json.dumps({"type": "seen", "frame": message["frame"]}))
            case "preview":
                self.previews.append(message)
            case "error":
                self.errors.append(message["message"])
            case "heard":
                self.heard.append(message)
            case "listening" | "hearing":
                self.listens.append((message["type"], message["on"]))
            case "stopped":
                self.stops += 1
        self._live()

    def ready(self):
        """Wait until it drives and sees."""
        return self.until(lambda page: page.drives and page.beat >= 0 and page.state)

    def _live(self):
        if self.is_alive and self.beat >= 0:
            self.socket.send(json.dumps({"type": "alive", "at": time.monotonic() * 1000, "beat": self.beat}))


@contextmanager
def console_thread(choices, setup, config=None, **more):
    """A console in a thread; yields its server, and raises what it raised."""
    opened, until, found, faults = threading.Event(), threading.Event(), [], []

    def work():
        try:
            run_console(choices, setup, config or ConsoleConfig(picture_pixels=0), opened=announce, until=until, **more)
        except (ConnectionClosed, Exception) as error:
            faults.append(error)
            opened.set()

    def announce(server):
        found.append(server)
        opened.set()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        assert opened.wait(WAIT_S)
        if faults:
            raise faults[0]
        yield found[0]
    finally:
        until.set()
        thread.join(WAIT_S)
    if faults:
        raise faults[0]
    assert not thread.is_alive()
