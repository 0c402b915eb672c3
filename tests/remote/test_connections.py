"""A server whose clients misbehave: an echo with short time limits."""

import http
import os
import resource
import socket
import threading
import time
from contextlib import ExitStack
from dataclasses import replace

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from verbot.errors import ConfigError
from verbot.remote import connection as one_client
from verbot.remote import connections
from verbot.remote.connections import ConnectionLimits, ConnectionServer, refusal

HANDSHAKE = (
    b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
LIMITS = ConnectionLimits(2**20, connections=6, handshake_s=0.2, silence_s=0.24, idle_s=0.25, send_s=0.2, close_s=0.15)


class Echo:
    def __init__(self):
        self.last = None

    def admit(self, request):
        return refusal(http.HTTPStatus.NOT_FOUND, "not here") if request.path == "/not-here" else None

    async def converse(self, connection):
        self.last = connection
        async for data in connection.messages():
            if data == "fail":
                raise RuntimeError("out of order")
            await connection.send(data)


@pytest.fixture
def server():
    running = ConnectionServer(Echo(), "127.0.0.1", 0, LIMITS)
    yield running
    running.close()
    assert not running._thread.is_alive()


def open_socket(server, request=HANDSHAKE):
    raw = socket.create_connection(server.address, timeout=5)
    raw.sendall(request)
    if request is HANDSHAKE:
        assert b"101 Switching Protocols" in raw.recv(4096)
    return raw


def frame(data, opcode=2, fin=True):
    length = bytes([0x80 | len(data)]) if len(data) < 126 else b"\xfe" + len(data).to_bytes(2, "big")
    return bytes([(0x80 if fin else 0) | opcode]) + length + b"\0\0\0\0" + data


def until_dropped(raw):
    """Seconds until the server closes this connection."""
    start = time.monotonic()
    try:
        while raw.recv(2**16):
            pass
    except ConnectionError:
        pass
    return time.monotonic() - start


def echoes(server):
    with connect(f"ws://127.0.0.1:{server.address[1]}", open_timeout=5) as client:
        client.send(b"hello")
        return client.recv(timeout=5) == b"hello"


def test_messages_come_back(server):
    with connect(f"ws://127.0.0.1:{server.address[1]}") as client:
        for message in (b"", b"x" * 2**19, "words", ["frag", "ments"]):
            client.send(message)
            assert client.recv(timeout=5) == ("fragments" if isinstance(message, list) else message)
    with pytest.raises(InvalidStatus, match="404"):
        connect(f"ws://127.0.0.1:{server.address[1]}/not-here")


def test_a_message_may_be_posted_from_any_thread(server):
    with connect(f"ws://127.0.0.1:{server.address[1]}") as client:
        client.send("ready")
        assert client.recv(timeout=5) == "ready"
        server._service.last.post("one")
        server._service.last.post(b"two")
        assert [client.recv(timeout=5), client.recv(timeout=5)] == ["one", b"two"]
        server._service.last.close(4000, "bye")
        with pytest.raises(ConnectionClosed, match="4000"):
            client.recv(timeout=5)


@pytest.mark.parametrize("request_", [b"", b"GET / HT", HANDSHAKE])
def test_who_says_nothing_is_dropped_and_costs_no_thread(server, request_):
    threads = threading.active_count()
    with open_socket(server, request_) as raw:
        assert threading.active_count() == threads
        assert until_dropped(raw) < 1.5
    assert echoes(server)


def test_beyond_the_most_connections_they_are_refused_until_there_is_room(server, monkeypatch):
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    raws = [open_socket(server) for _ in range(6)]
    with socket.create_connection(server.address, timeout=5) as refused:
        assert b"503" in refused.recv(4096)
    with pytest.raises(InvalidStatus, match="503"):
        echoes(server)
    time.sleep(0.1)
    for raw in raws[1:]:
        raw.close()
    time.sleep(0.05)
    assert echoes(server)
    raws[0].close()


def test_a_silent_client_makes_room_for_a_new_one(server):
    with ExitStack() as stack:
        # These answer pings, so nothing else drops them.
        clients = [stack.enter_context(connect(f"ws://127.0.0.1:{server.address[1]}")) for _ in range(6)]
        time.sleep(0.3)
        assert echoes(server)
        with pytest.raises(ConnectionClosed, match="1013|no close frame"):
            clients[0].recv(timeout=5)


def test_newcomers_do_not_throw_out_who_asked_within_the_idle_limit(monkeypatch):
    monkeypatch.setattr(connections, "LINGER_S", 0.05)
    server = ConnectionServer(Echo(), "127.0.0.1", 0, replace(LIMITS, idle_s=60.0))
    with ExitStack() as stack:
        stack.callback(server.close)
        robots = [stack.enter_context(connect(f"ws://127.0.0.1:{server.address[1]}")) for _ in range(6)]
        time.sleep(0.3)  # longer than `silence_s`: they execute their chunks, and answer pings
        for _ in range(3):
            with pytest.raises(InvalidStatus, match="503"):
                echoes(server)
        for robot in robots:
            robot.send(b"next")
            assert robot.recv(timeout=5) == b"next"


def test_without_descriptors_it_waits_and_goes_on(server):
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(int(name) for name in os.listdir("/proc/self/fd"))
    with socket.socket() as late:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 2, before[1]))
            late.connect(server.address)  # takes one of the last descriptors; the server has none for its end
            time.sleep(0.25)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        assert echoes(server)


def test_who_does_not_read_is_dropped(server):
    with open_socket(server) as raw:
        raw.settimeout(3)
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            while time.monotonic() - start < 3:
                raw.sendall(frame(b"x" * 60000))
    assert echoes(server)


def test_a_flood_of_pings_leaves_time_for_others(server):
    with open_socket(server) as raw:
        raw.setblocking(False)
        try:
            while True:
                raw.send(frame(b"", 9) * 10000)
        except BlockingIOError:
            pass
        start = time.monotonic()
        assert echoes(server) and time.monotonic() - start < 0.5


def test_who_asks_again_before_it_has_its_answer_is_answered_slowly(server, monkeypatch):
    monkeypatch.setattr(one_client, "AHEAD_PAUSE_S", 0.1)
    for size in (10, 5000):
        with open_socket(server) as raw:
            raw.sendall(frame(b"x" * size) * 4)
            start, received = time.monotonic(), b""
            while len(received) < 4 * size:
                received += raw.recv(2**16)
            assert 0.25 < time.monotonic() - start < 2


@pytest.mark.parametrize("piece", [b"\x82\xfe\x10\x00", frame(b"x", fin=False)])
def test_a_message_that_never_ends_is_dropped(server, monkeypatch, piece):
    monkeypatch.setattr(one_client, "GRACE_S", 0.3)
    with open_socket(server) as raw:
        start = time.monotonic()
        with pytest.raises(ConnectionError):
            raw.sendall(piece)
            while time.monotonic() - start < 3:
                raw.sendall(frame(b"", 10) if piece[0] == 2 else b"x")
                time.sleep(0.05)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x82\xff" + (2**62).to_bytes(8, "big"), 1009),
        (frame(b"\xff", 1), 1007),
        (frame(b"x", 3), 1002),
        (frame(b"x") * 300, 1008),
    ],
)
def test_what_no_client_should_send_closes_its_connection(server, data, code):
    with open_socket(server) as raw:
        raw.sendall(data)
        received = b""
        while part := raw.recv(4096):
            received += part
        assert code.to_bytes(2, "big") in received
    assert echoes(server)


def test_messages_beyond_the_room_wait_for_it_the_oldest_first(monkeypatch):
    server = ConnectionServer(Echo(), "127.0.0.1", 0, replace(LIMITS, unfinished_bytes=60000, silence_s=4.0, send_s=4.0))
    size, raws = 2**18, [open_socket(server) for _ in range(5)]
    for raw in raws:  # each has begun a message; together they are more than the server holds
        raw.sendall(b"\x82\xff" + size.to_bytes(8, "big") + b"\0" * 50000)
        time.sleep(0.02)
    assert 60000 < server._room.held < 60000 + 5 * (2**16 + 2**12) and server._room.waiting > 0
    assert echoes(server), "a small message needs no room"
    threads = [threading.Thread(target=raw.sendall, args=(bytes(size - 50000 + 4),)) for raw in reversed(raws)]
    for thread in threads:
        thread.start()
    for raw in raws:
        received = 0
        while received < size:
            received += len(raw.recv(2**16))
    # The oldest stops sending, and the others do not wait for it forever.
    monkeypatch.setattr(one_client, "GRACE_S", 0.2)
    for raw in raws[:2]:
        raw.sendall(b"\x82\xff" + size.to_bytes(8, "big") + b"\0" * 50000)
        time.sleep(0.02)
    monkeypatch.setattr(one_client, "LEAST_WHILE_OTHERS_WAIT", 2**22)
    with pytest.raises(ConnectionError):
        start = time.monotonic()
        while time.monotonic() - start < 3:
            raws[0].sendall(b"\0")
            time.sleep(0.02)
    for thread, raw in zip(threads, raws, strict=True):
        thread.join()
        raw.close()
    time.sleep(0.1)
    assert server._room.held == 0
    server.close()


def test_an_error_ends_one_conversation(server, caplog):
    for _ in range(2):
        with connect(f"ws://127.0.0.1:{server.address[1]}") as client:
            client.send("fail")
            with pytest.raises(ConnectionClosed):
                client.recv(timeout=5)
    assert echoes(server)
    assert [record.message for record in caplog.records] == ["a client was dropped: RuntimeError: out of order"]


def test_it_closes_in_time_whatever_clients_do():
    server = ConnectionServer(Echo(), "127.0.0.1", 0, LIMITS)
    raws = [open_socket(server), open_socket(server, b""), open_socket(server)]
    raws[2].setblocking(False)
    try:
        while True:
            raws[2].send(frame(b"x" * 60000))
    except BlockingIOError:
        pass
    start = time.monotonic()
    server.close()
    assert time.monotonic() - start < 0.9 and not server._thread.is_alive()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(server.address, timeout=1)
    for raw in raws:
        raw.close()


def test_an_address_that_cannot_be_had_is_an_error(server):
    with pytest.raises(ConfigError, match=r"nothing can be served at 127\.0\.0\.1:\d+"):
        ConnectionServer(Echo(), "127.0.0.1", server.address[1], LIMITS)
    with pytest.raises(ConfigError, match="no.such.host"):
        ConnectionServer(Echo(), "no.such.host.invalid", 0, LIMITS)
    with pytest.raises(ConfigError, match="70000"):
        ConnectionServer(Echo(), "127.0.0.1", 70000, LIMITS)
