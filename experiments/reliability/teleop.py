"""The teleoperation page under bad pages and bad networks: what moves the arm, what holds up the control loop, what is left open.

Run it: python experiments/reliability/teleop.py --seed 0 --out teleop.json
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

PERIOD_S = 0.1
HELLO = {"mode": "teleop", "cameras": ["front", "wrist"], "gamepad": True}
PAGE = """
import json, sys, threading, time
from websockets.sync.client import connect
url, beat, lock = sys.argv[1], [-1], threading.Lock()
origin = url[: url.index("/", 7)]
page = connect(url.replace("http://", "ws://") + "socket", origin=origin, compression=None)
def send(**message):
    with lock:
        page.send(json.dumps(message))
def read():
    for data in page:
        message = json.loads(data)
        if message["type"] == "beat":
            beat[0] = message["beat"]
            alive()
        elif message["type"] == "state":
            send(type="seen", frame=message["frame"])
def alive():
    send(type="alive", at=time.monotonic() * 1000, beat=max(beat[0], 0))
threading.Thread(target=read, daemon=True).start()
time.sleep(1)
alive()
send(type="key", code="KeyW", down=True)
while True:
    alive()
    time.sleep(0.1)
"""
FLOOD = """
import resource, socket, sys, time
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 4096), hard))
held = []
try:
    while len(held) < int(sys.argv[2]):
        held.append(socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=2))
except OSError:  # nobody accepts any more
    pass
time.sleep(2)
"""


class Loop:
    """A server and its control loop: what moves the arm, and how long each call took."""

    def __init__(self, period_s: float = PERIOD_S, pixels: int = 32):
        from verbot.teleop.inputs import Inputs
        from verbot.teleop.server import PageServer

        self.inputs = Inputs()
        self.server = PageServer(self.inputs, HELLO)
        self.moves, self.longest_s, self.closing_s = False, 0.0, 0.0
        self._began: float | None = None
        self._images = {"front": np.random.default_rng(0).integers(0, 256, (pixels, pixels, 3), np.uint8)}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(period_s,), daemon=True)
        self._thread.start()

    def blocked_s(self) -> float:
        """The longest a call took, one that still runs included."""
        began = self._began
        return max(self.longest_s, 0.0 if began is None else time.monotonic() - began)

    def close(self) -> None:
        self._stop.set()
        closing = threading.Thread(target=self.server.close, daemon=True)
        began = time.monotonic()
        closing.start()
        closing.join(60)
        self.closing_s = time.monotonic() - began

    def _run(self, period_s: float) -> None:
        number = 0
        while not self._stop.wait(period_s):
            number += 1
            self._began = began = time.monotonic()
            self.server.show({"number": number}, self._images)
            self.moves = self.inputs.take().motion.moves
            self._began, self.longest_s = None, max(self.longest_s, time.monotonic() - began)


@contextlib.contextmanager
def running(**settings: Any) -> Iterator[Loop]:
    loop = Loop(**settings)
    try:
        yield loop
    finally:
        loop.close()


def page(loop: Loop) -> Any:
    url = loop.server.url
    settings: dict[str, Any] = {"origin": url[: url.index("/", 7)], "compression": None, "open_timeout": 5}
    return connect(url.replace("http://", "ws://") + "socket", **settings)


@contextlib.contextmanager
def raw_page(loop: Loop) -> Iterator[socket.socket]:
    """A page that shook hands, on a socket that nobody reads."""
    parts = urlsplit(loop.server.url)
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", parts.port))
        sock.sendall(
            f"GET {parts.path}socket HTTP/1.1\r\nHost: {parts.netloc}\r\nOrigin: http://{parts.netloc}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        yield sock


def text_frame(message: dict[str, Any]) -> bytes:
    data = json.dumps(message).encode()
    return bytes([0x81, 0x80 | 126]) + struct.pack("!H", len(data)) + bytes(4) + data


def seconds_until(holds: Callable[[], bool], most: float) -> float:
    """Seconds until it holds, at most `most`."""
    began = time.monotonic()
    while not holds() and time.monotonic() - began < most:
        time.sleep(0.005)
    return round(time.monotonic() - began, 2)


def frozen(count: int, most: float) -> dict[str, Any]:
    """A browser is stopped (SIGSTOP) while a key is held: how long the arm moves on."""
    moved = []
    for _ in range(count):
        with running() as loop:
            browser = subprocess.Popen([sys.executable, "-c", PAGE, loop.server.url])
            try:
                if seconds_until(lambda loop=loop: loop.moves, 20) >= 20:  # type: ignore[misc]
                    raise SystemExit("the page's key does not move the arm")
                time.sleep(0.5)
                browser.send_signal(signal.SIGSTOP)
                moved.append(seconds_until(lambda loop=loop: not loop.moves, most))  # type: ignore[misc]
            finally:
                browser.kill()
                browser.wait()
    return {"test": "arm moves after the page froze", "count": count, "longest_s": max(moved), "limit_s": 0.3 + 2 * PERIOD_S}


def takeovers(count: int) -> dict[str, Any]:
    """Pages take over while the control loop shows states as fast as it can: what each of them gets first."""
    early = 0
    with running(period_s=0.0) as loop, contextlib.ExitStack() as opened:
        before: Any = None
        for _ in range(count):
            one = opened.enter_context(page(loop))
            early += json.loads(one.recv(timeout=20))["type"] != "hello"
            if before is not None:  # the page before is open until this one has taken over
                before.close()
            before = one
    return {"test": "takeover: a state before the greeting", "count": count, "untyped": early}


def fuzzed(count: int, rng: random.Random) -> dict[str, Any]:
    """Invalid messages: each is answered, or ends its connection with a code; the server lives."""
    lost = answered = closed = 0
    with running() as loop:
        one = page(loop)
        for _ in range(count):
            try:
                one.send(nonsense(rng))
                one.send("{}")  # always answered, after what came before
                while json.loads(one.recv(timeout=5))["type"] != "error":
                    pass
                answered += 1
            except TimeoutError:
                lost += 1
            except ConnectionClosed as error:
                closed, lost = closed + (error.rcvd is not None), lost + (error.rcvd is None)
                one = page(loop)
        one.close()
        with contextlib.suppress(OSError, WebSocketException, TimeoutError), page(loop) as last:
            alive = json.loads(last.recv(timeout=5))["type"] == "hello"
    return {
        "test": "fuzzed messages of a page",
        "count": count,
        "answered": answered,
        "closed": closed,
        "untyped": lost + (not alive),
    }


def nonsense(rng: random.Random) -> str | bytes:
    good: list[dict[str, Any]] = [
        {"type": "key", "code": "KeyW", "down": True}, {"type": "pad", "axes": [0.5, 0], "buttons": [1]}, {"type": "release"},
        {"type": "say", "text": "go", "add": False}, {"type": "seen", "frame": 0}, {"type": "alive", "at": 1, "beat": 0},
    ]  # fmt: skip
    bad: list[Any] = [None, True, -1, 1e308, 2**70, "", "\ud83d", "x" * 400, [], [[]] * 40, {}, float("nan"), "\x1b[31m", "KeyZ"]
    kind = rng.randrange(5)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 3000))
    if kind == 1:
        return "[" * rng.randrange(1, 4000)
    if kind == 2:
        return "x" * rng.randrange(4000, 9000)
    message = dict(rng.choice(good))
    message[rng.choice([*message, "more", "type"])] = rng.choice(bad)
    text = json.dumps(message)
    if kind == 3:
        start = rng.randrange(len(text))
        text = text[:start] + rng.choice(["", "}", '"', "\\u0000", "NaN"]) + text[start + rng.randrange(5) :]
    return text


def unread(seconds: float) -> dict[str, Any]:
    """A page that confirms every frame and reads none: how long a call of the control loop takes, and closing."""
    loop = Loop(period_s=0.02, pixels=320)
    try:
        with raw_page(loop) as sock:
            seconds_until(lambda: loop.server.connected, 5)
            sock.sendall(text_frame({"type": "seen", "frame": 10**9}))
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline:
                time.sleep(0.05)
            blocked = loop.blocked_s()
            dropped = not loop.server.connected
            loop.close()
    finally:
        closing = loop.closing_s
    return {
        "test": "a page that never reads",
        "count": 1,
        "blocked_s": round(blocked, 2),
        "dropped": dropped,
        "close_s": round(closing, 2),
    }


def idle(most: float) -> dict[str, Any]:
    """Seconds until connections are dropped that say nothing: before the handshake, and after it."""
    with running() as loop:
        with socket.create_connection(("127.0.0.1", urlsplit(loop.server.url).port or 0)) as silent:
            silent.settimeout(most)
            began = time.monotonic()
            with contextlib.suppress(TimeoutError, ConnectionError):
                silent.recv(1)
            before = round(time.monotonic() - began, 2)
        with raw_page(loop):
            seconds_until(lambda: loop.server.connected, 5)
            after = seconds_until(lambda: not loop.server.connected, most)
    return {"test": "idle and half-open connections", "count": 2, "idle_s": before, "half_open_s": after}


def crowded(count: int) -> dict[str, Any]:
    """Idle connections take every descriptor of the process; once they are gone a page must be served again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 64, hard))
    recovered = 0.0
    try:
        with running() as loop:
            port = str(urlsplit(loop.server.url).port)
            subprocess.run([sys.executable, "-c", FLOOD, port, str(count)], timeout=60, check=False, stderr=subprocess.DEVNULL)
            recovered = seconds_until(lambda: answers(loop), 30)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return {
        "test": "idle connections beyond the descriptors",
        "count": count,
        "served_again_s": recovered,
        "dead": recovered >= 30,
    }


def answers(loop: Loop) -> bool:
    try:
        with page(loop) as one:
            return bool(json.loads(one.recv(timeout=2))["type"])
    except (OSError, WebSocketException, TimeoutError):
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="example: python experiments/reliability/teleop.py --freezes 3"
    )
    parser.add_argument("--freezes", type=int, default=5)
    parser.add_argument("--longest", type=float, default=60.0, help="seconds to wait for what does not happen")
    parser.add_argument("--takeovers", type=int, default=100)
    parser.add_argument("--messages", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=10.0, help="that nobody reads")
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rows = [
        frozen(options.freezes, options.longest),
        takeovers(options.takeovers),
        fuzzed(options.messages, random.Random(options.seed)),
        unread(options.seconds),
        idle(options.longest),
        crowded(options.connections),
    ]
    text = json.dumps(
        {"test": "teleop", "seed": options.seed, "count": sum(row["count"] for row in rows), "rows": rows}, indent=1
    )
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
