"""Access to the page (token, origin) and invalid messages."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import numpy as np
import pytest
from scripted import Page, origin_of
from websockets.exceptions import ConnectionClosed, InvalidStatus

from verbot.envs.tabletop.env import robot_spec
from verbot.errors import ConfigError
from verbot.teleop.controls import DIGITS, MOTIONS
from verbot.teleop.inputs import COMMANDS, MAX_BYTES, Inputs
from verbot.teleop.run import RealTime, greeting
from verbot.teleop.server import AHEAD, LIMITS, REPLACED, PageServer

LIMIT_S = 30.0  # of what happens soon unless the machine is loaded


@pytest.fixture
def server():
    with PageServer(Inputs(), greeting(robot_spec(32), "teleop", True)) as running:
        yield running


def get(url, **headers):
    """(status, body, headers) of a page."""
    try:
        with urlopen(Request(url, headers=headers), timeout=LIMIT_S) as answer:
            return answer.status, answer.read().decode(), dict(answer.headers)
    except HTTPError as error:
        with error:
            return error.code, error.read().decode(), dict(error.headers)


def refusal(server, **settings):
    with pytest.raises(InvalidStatus) as refused:
        Page(settings.pop("url", server.url), **settings)
    return refused.value.response.status_code, refused.value.response.body.decode()


def test_the_page_and_its_files_come_only_from_this_server(server):
    status, html, headers = get(server.url)
    assert status == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert headers["X-Content-Type-Options"] == "nosniff"
    for name in re.findall(r'(?:src|href)="([^"]+)"', html):
        if not name.startswith("data:"):
            status, text, headers = get(server.url + name)
            assert status == 200 and not headers["Content-Type"].startswith("text/html")
            html += text
    assert not re.search(r"https?://|//[a-z]+\.", html.replace("ws://", ""))
    assert not re.search(r"\beval\(|innerHTML|document\.write|new Function|style=|<script>", html)
    assert get(server.url + "../server.py")[0] in (403, 404)
    assert get(server.url + "nothing")[:2] == (404, "there is no such page")


def test_the_page_knows_the_same_keys_as_the_server(server):
    script = get(server.url + "page.js")[1]
    moves, commands = (re.search(rf"const {name} = \[(.*?)\];", script, re.DOTALL).group(1) for name in ("MOVES", "COMMANDS"))
    assert set(re.findall(r'"(\w+)"', moves)) == {*MOTIONS, *DIGITS}
    assert set(re.findall(r'"(\w+)"', commands)) == set(COMMANDS)


def test_without_the_token_every_path_is_refused(server):
    base = origin_of(server.url)
    for path in ("/", "/wrong/", "/wrong/socket", f"/{server.token[:-1]}/", f"/x{server.token}/"):
        assert get(base + path)[:2] == (403, "wrong token: open the complete address that verbot printed")
    refused = refusal(server, url=f"{base}/wrong/", origin=base)
    assert refused == (403, "wrong token: open the complete address that verbot printed")
    assert len(server.token) >= 24
    with PageServer(Inputs(), {}) as other:
        assert other.token != server.token


def test_another_page_of_the_same_browser_cannot_connect(server):
    expected = f"wrong origin: expected {origin_of(server.url)}"
    for origin in ("https://example.com", "http://127.0.0.1:1", "null", None):
        assert refusal(server, origin=origin) == (403, expected)
    status, text, _ = get(server.url, Host=f"elsewhere.example:{server.port}")
    assert (status, text) == (403, "wrong host: open this page on the machine that serves it")
    for host in ("localhost", "127.0.0.1", "[::1]"):  # without a port, as a browser says it for port 80
        assert get(server.url, Host=host)[0] == 200
    with Page(server.url.replace("127.0.0.1", "localhost")) as page:  # as through a tunnel
        assert page.hello["mode"] == "teleop"


def test_a_malformed_message_is_answered_and_the_connection_lives(server):
    with Page(server.url) as page:
        for data, problem in ((b"\x00\x01", "a message is JSON text"), ("{", "is not"), ('{"type": "run"}', "got 'run'")):
            page.socket.send(data)
            answer = json.loads(page.socket.recv(timeout=LIMIT_S))
            assert answer["type"] == "error" and problem in answer["message"]
        page.press("KeyW")
        page.press("nonsense")
        page.socket.recv(timeout=LIMIT_S)
        assert server._inputs.take().motion.away == 1


def test_an_oversized_message_ends_the_connection_and_the_server_lives(server):
    with Page(server.url) as page:
        page.press("KeyW")
        page.socket.send("x" * (MAX_BYTES + 1))
        with pytest.raises(ConnectionClosed) as closed:
            page.socket.recv(timeout=LIMIT_S)
        assert closed.value.rcvd.code == 1009
    wait_until(lambda: not server.connected)
    assert not server._inputs.take().motion.moves, "keys held by the page are released"
    with Page(server.url) as page:
        assert page.hello["cameras"] == ["front", "wrist"]


def test_a_second_page_takes_over(server):
    with Page(server.url) as first:
        first.press("KeyW")
        with Page(server.url) as second:
            with pytest.raises(ConnectionClosed) as closed:
                first.socket.recv(timeout=LIMIT_S)
            assert closed.value.rcvd.code == REPLACED
            wait_until(lambda: server.connected)
            second.press("KeyD")
            wait_until(lambda: server._inputs.take().motion.right == 1)
            assert server._inputs.take().motion.away == 0


class Silent:
    """A connection that sends nothing anywhere."""

    def __init__(self, *messages):
        self.sent, self._messages = [], messages

    async def messages(self, last=False):
        for message in self._messages:
            yield message() if callable(message) else message

    async def send(self, text):
        self.sent.append(json.loads(text))

    def post(self, text):
        self.sent.append(json.loads(text))

    def close(self, code, reason):
        self.sent.append(code)


def test_a_page_that_was_replaced_presses_no_key(server):
    """A message that it sent before is still on its way when the other page takes over; nobody would release that key."""
    replacement = Silent()

    def take_over():
        server._take_over(replacement)
        server._inputs.beat()
        server._inputs.put('{"type": "alive", "at": 0, "beat": 0}')
        return '{"type": "key", "code": "KeyW", "down": true}'

    first = Silent(take_over)
    asyncio.run(server.converse(first))
    assert first.sent[-1] == REPLACED
    assert not server._inputs.take().motion.moves
    assert server._page is replacement


def test_the_greeting_comes_before_every_state():
    """However the control loop's `show` falls between: a page is nobody's before it was greeted."""
    server = PageServer(Inputs(), {"mode": "teleop"})
    server.close()

    class Slow(Silent):
        async def send(self, text):
            server.show({"number": 1}, {})
            await super().send(text)
            server.show({"number": 2}, {})

    page = Slow(lambda: server.show({"number": 3}, {}) or '{"type": "release"}')
    asyncio.run(server.converse(page))
    assert [message["type"] for message in page.sent if message["type"] != "beat"] == ["hello", "state"]


def test_a_page_that_never_reads_blocks_nobody_and_is_dropped():
    """A browser that was stopped, with full buffers: every call returns at once, and the next page takes over."""
    image = {"front": np.random.default_rng(0).integers(0, 255, (320, 320, 3), np.uint8)}
    server = PageServer(Inputs(), {"mode": "teleop"})
    try:
        with frozen_page(server):
            wait_until(lambda: server.connected)
            longest = 0.0
            for number in range(20):
                server._inputs.seen = server._frame  # as if it had confirmed every frame, so that its buffers fill
                began = time.monotonic()
                server.show({"number": number}, image)
                longest = max(longest, time.monotonic() - began)
                time.sleep(0.01)
            assert longest < 3  # sending would take for ever
            with Page(server.url) as other:
                server.show({"number": 99}, image)
                assert other.receive()["number"] == 99
            began = time.monotonic()
    finally:
        server.close()
    assert time.monotonic() - began < 8  # twice `close_s`, on a loaded machine


@contextmanager
def frozen_page(server):
    """The connection of a page that shook hands and never reads."""
    with socket.create_connection(("127.0.0.1", server.port)) as frozen:
        frozen.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        host, path = f"127.0.0.1:{server.port}", f"/{server.token}/socket"
        frozen.sendall(
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: http://{host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        yield frozen


def test_a_half_open_page_is_dropped_within_seconds(monkeypatch):
    monkeypatch.setattr("verbot.teleop.server.LIMITS", replace(LIMITS, silence_s=0.4))
    with PageServer(Inputs(), {"mode": "teleop"}) as server, frozen_page(server):
        wait_until(lambda: server.connected)
        wait_until(lambda: not server.connected)
    assert LIMITS.silence_s <= 5 and LIMITS.handshake_s <= 5


def test_a_frozen_page_releases_its_key(server):
    with Page(server.url) as page:
        page.press("KeyW")
        wait_until(lambda: server._inputs.take().motion.away == 1)
        wait_until(lambda: not server._inputs.take().motion.moves)
        assert server.connected, "by its silence, before it is dropped"


def test_a_slow_page_skips_frames(server):
    image = {"front": np.zeros((8, 8, 3), np.uint8)}
    with Page(server.url) as page:
        for number in range(AHEAD + 5):
            server.show({"number": number}, image)
        received = [page.receive()["number"] for _ in range(AHEAD)]
        assert received == list(range(AHEAD))
        page.seen()
        wait_until(lambda: not server.waiting)
        server.show({"number": 99}, image)
        server.show({"number": 99}, image)  # nothing new
        server.show({"number": 100}, image)
        state = page.receive()
        assert state["number"] == 99 and state["images"]["front"].startswith("data:image/jpeg;base64,")
        assert page.receive()["number"] == 100


def test_a_port_that_is_taken_is_reported(server):
    with pytest.raises(ConfigError, match=f"nothing can be served at 127.0.0.1:{server.port}: "):
        PageServer(Inputs(), {}, port=server.port)


def test_real_time_keeps_the_rate_and_never_runs_faster(monkeypatch):
    now, slept = [0.0], []

    def sleep(seconds):
        slept.append(round(seconds, 6))
        now[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(time, "sleep", sleep)
    pace = RealTime(10.0)
    for busy in (0.02, 0.05, 0.35, 0.02):
        now[0] += busy
        pace(None)
    assert slept == [0.08, 0.05, 0.0, 0.08]


def wait_until(true):
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.005)
