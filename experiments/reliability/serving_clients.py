"""Clients of a policy server that misbehave: fuzzed messages, slow, silent and deaf connections, a giant message."""

from __future__ import annotations

import itertools
import os
import random
import selectors
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from verbot.remote import encode
from verbot.remote.codec import observation_to_wire
from verbot.spec import Observation, RobotSpec

TYPED = {"WireError", "SpecError", "PolicyError", "ConfigError", "DataError"}


class RawClient:
    """A websocket without a library, so that it can break every rule."""

    def __init__(self, address: tuple[str, int], timeout_s: float = 10.0):
        self.socket = socket.create_connection(address, timeout=timeout_s)
        self._buffer = b""
        self.is_text = False  # whether the message received last was text

    def handshake(self, path: str = "/verbot", greets: bool = True) -> bytes:
        """The greeting, one message; none where the client speaks first."""
        host = f"Host: 127.0.0.1:{self.socket.getpeername()[1]}\r\n"
        upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        self.socket.sendall(f"GET {path} HTTP/1.1\r\n{host}{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise ConnectionError(head.partition(b"\r\n")[0].decode(errors="replace"))
        return self.receive() if greets else b""

    def send(self, data: bytes, opcode: int = 2) -> None:
        self.socket.sendall(frame(data, opcode))

    def receive(self) -> bytes:
        """The next message; pings are answered. Raises `ConnectionError` if the server closes."""
        while True:
            head = self._take(2)
            length = head[1] & 127
            if length == 126:
                (length,) = struct.unpack("!H", self._take(2))
            elif length == 127:
                (length,) = struct.unpack("!Q", self._take(8))
            data, opcode = self._take(length), head[0] & 15
            if opcode == 8:
                raise ConnectionError(f"closed with {int.from_bytes(data[:2], 'big')}")
            if opcode == 9:
                self.send(data, 10)
            elif opcode != 10:
                self.is_text = opcode == 1
                return data

    def close(self) -> None:
        self.socket.close()

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._more()
        data, self._buffer = self._buffer[:count], self._buffer[count:]
        return data

    def _more(self) -> None:
        data = self.socket.recv(2**16)
        if not data:
            raise ConnectionError("closed without a word")
        self._buffer += data


def frame(data: bytes, opcode: int = 2) -> bytes:
    """A frame of a client; its mask is zero."""
    size = len(data)
    length = (
        bytes([128 | size]) if size < 126 else struct.pack("!BH" if size < 2**16 else "!BQ", 254 if size < 2**16 else 255, size)
    )
    return bytes([128 | opcode]) + length + bytes(4) + data


def observation(spec: RobotSpec, seed: int = 0) -> Observation:
    """Noise for every camera, the middle of every range."""
    rng = np.random.default_rng(seed)
    images = {c.name: rng.integers(0, 255, (c.height, c.width, 3), np.uint8) for c in spec.cameras}
    state = [(np.array(c.low) + np.array(c.high)) / 2 for c in spec.state]
    return Observation(images, np.concatenate([*state, np.zeros(0)]).astype(np.float32), "pick up the red cube")


def fuzzed(spec: RobotSpec, seed: int, count: int) -> Iterator[tuple[bytes, int]]:
    """Messages and their opcodes, as a function of the seed."""
    rng = random.Random(seed)
    wire = observation_to_wire(observation(spec))
    whole = encode({"id": 1, "observations": [wire]})
    array = {b"__ndarray__": True, b"data": bytes(8), b"dtype": "<f4", b"shape": [2]}
    makers = (_flipped, _cut, _noise, _nested, _declared, _wrong_array, _wrong_field, _poisoned_memory)
    for _ in range(count):
        data = rng.choice(makers)(rng, whole, wire, array)
        yield data, 2 if rng.random() < 0.95 else 1


def _flipped(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    data = bytearray(whole)
    for _ in range(rng.randint(1, 6)):
        place = rng.randrange(90) if rng.random() < 0.5 else len(data) - 1 - rng.randrange(300)
        data[place] = rng.randrange(256)
    return bytes(data)


def _cut(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    return whole[: rng.randrange(len(whole))] + rng.randbytes(rng.randrange(4))


def _noise(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    return rng.randbytes(rng.randrange(400))


def _nested(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    return rng.choice((b"\x91", b"\x81\xa1a", b"\x92\x90")) * rng.randrange(1, 20000) + b"\xc0"


def _declared(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    kind = rng.choice((b"\xc6", b"\xdb", b"\xdd", b"\xdf", b"\xc9"))
    prefix = rng.choice((b"", b"\x82\xa2id\x01\xacobservations", b"\x81\xa1a"))
    return prefix + kind + rng.choice((0xFFFFFFFF, 0x7FFFFFFF, 2**24)).to_bytes(4, "big") + rng.randbytes(rng.randrange(60))


def _wrong_array(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    dtype = rng.choice(("|O", "<f8", "<U4", ">f4", "f4,f4", "<M8[s]", "<c16", None, 3, "|u1", "<f2"))
    shape = rng.choice(([2], [-1], [2**62, 4], [2.0], [1] * 40, "2", [0], [2**31, 2**31], [True]))
    changed = {**array, rng.choice((b"dtype", b"shape", b"data", b"x")): rng.choice((dtype, shape, b"", None, 2**60))}
    place = rng.choice(("state", "goal_image", "images"))
    record = {**wire, "images": {"front": changed}} if place == "images" else {**wire, place: changed}
    return encode({"id": 1, "observations": [record if rng.random() < 0.5 else _shrunk(record)]})


def _wrong_field(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    values: tuple[Any, ...] = (
        None,
        -1,
        2**63,
        float("nan"),
        float("inf"),
        "x" * 5000,
        [],
        {},
        b"x",
        True,
        [[]] * 50,
        {"a": {"b": {}}},
    )
    record = {
        **(wire if rng.random() < 0.5 else _shrunk(wire)),
        rng.choice(tuple(wire)): rng.choice(values),
        rng.choice(("sample_seed", "memory", "x")): rng.choice(values),
    }
    number = rng.choice((1, None, "x", -5, 2**63, 1.5))
    return encode({"id": number, "observations": rng.choice(([record], record, [record] * 70, None, [[]]))})


def _poisoned_memory(rng: random.Random, whole: bytes, wire: Any, array: Any) -> bytes:
    names = ("time_s", "images", "images_mask", "state", "memory.h", "written_s", "last_chunk", "last_chunk_s")
    bad = (
        np.array([np.nan]),
        np.array([np.inf], np.float32),
        np.zeros((0,)),
        np.zeros((3, 0, 2), np.int64),
        np.array(2**63, np.uint64),
    )
    memory = {rng.choice(names): rng.choice(bad) for _ in range(rng.randint(2, 6))}
    return encode({"id": 1, "observations": [{**wire, "memory": memory}]})


def _shrunk(wire: Any) -> Any:
    """Without large arrays: wrong before the first of them is looked at."""
    return {name: {} if name == "images" and value and isinstance(next(iter(value.values())), np.ndarray) else value
            for name, value in wire.items() if not isinstance(value, np.ndarray)}  # fmt: skip


def rss_mb(pid: int) -> float:
    """The memory of a process, 0 if it has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS")), 0.0)


def cpu_s(pid: int) -> float:
    """The processor time of a process and its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def give_way() -> None:
    """Let this thread take no processor from the server and the good client, as a client elsewhere would not."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def fuzz(address: tuple[str, int], messages: Iterable[tuple[bytes, int]], rate: float, until: float) -> Counter[str]:
    """Send each and take its answer; what the answers were. A closed connection is opened again."""
    give_way()
    counts: Counter[str] = Counter()
    client: RawClient | None = None
    start = time.monotonic()
    for number, (data, opcode) in enumerate(messages):
        if time.monotonic() > until:
            counts["not sent in time"] += 1
            continue
        time.sleep(max(0.0, start + number / rate - time.monotonic()))
        try:
            if client is None:
                client = RawClient(address)
                client.handshake()
            client.send(data, opcode)
            answer = msgpack.unpackb(client.receive(), strict_map_key=False)
            fault = answer.get("error")
            counts["chunks" if fault is None else str(fault["kind"])] += 1
            if fault is not None and (fault["kind"] not in TYPED or len(fault["message"]) > 4000):
                counts["untyped"] += 1
        except TimeoutError:
            counts["no answer"] += 1
            client = None
        except (OSError, ValueError) as error:
            counts[f"connection {str(error)[:40]}"] += 1
            client = None
    if client is not None:
        client.close()
    return counts


class Crowd:
    """Clients that take and give nothing, kept up from one thread: who is dropped comes again.

    Args:
        slow: send a byte of a message now and then.
        idle: half say nothing at all, half say nothing after the handshake, and do not answer pings.
        deaf: send valid requests and read no answer.
        path, greets: as in `RawClient.handshake`.
    """

    def __init__(
        self,
        address: tuple[str, int],
        request: bytes,
        slow: int,
        idle: int,
        deaf: int,
        path: str = "/verbot",
        greets: bool = True,
    ):
        self._address, self._request, self._stop = address, request, threading.Event()
        self._path, self._greets = path, greets
        self._plan = ["slow"] * slow + ["silent"] * (idle // 2) + ["half-open"] * (idle - idle // 2) + ["deaf"] * deaf
        self.refused = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(10)

    def _run(self) -> None:
        give_way()
        sockets: list[socket.socket | None] = [None] * len(self._plan)
        rests = [b""] * len(self._plan)
        while not self._stop.wait(0.2):
            for place, kind in enumerate(self._plan):
                try:
                    one = sockets[place] = sockets[place] or self._open(kind)
                    if kind == "slow":
                        one.send(frame(self._request)[:1] if os.urandom(1)[0] < 8 else b"\0")
                    while kind == "deaf":
                        rests[place] = rests[place] or frame(self._request)
                        rests[place] = rests[place][one.send(rests[place]) :]
                except BlockingIOError:
                    pass
                except OSError:
                    self.refused += sockets[place] is None
                    broken = sockets[place]
                    if broken is not None:
                        broken.close()
                    sockets[place], rests[place] = None, b""
        for left in sockets:
            if left is not None:
                left.close()

    def _open(self, kind: str) -> socket.socket:
        client = RawClient(self._address, timeout_s=0.5)
        if kind != "silent":
            client.handshake(self._path, self._greets)
        if kind == "slow":
            client.socket.sendall(b"\x82\xfe" + struct.pack("!H", 30000) + bytes(4))
        client.socket.setblocking(False)
        return client.socket


def crowd_of_idle(address: tuple[str, int], count: int) -> tuple[list[socket.socket], int]:
    """So many connections that say nothing, and how many of them the server closed at once."""
    sockets: list[socket.socket] = []
    until = time.monotonic() + 20
    while len(sockets) < count and time.monotonic() < until:
        try:
            sockets.append(socket.create_connection(address, timeout=2))
        except OSError:
            continue
    time.sleep(1.0)
    closed = 0
    with selectors.DefaultSelector() as selector:
        for one in sockets:
            selector.register(one, selectors.EVENT_READ)
        for key, _ in selector.select(0.5):
            assert isinstance(key.fileobj, socket.socket)
            try:
                closed += b"503" in key.fileobj.recv(200)
            except OSError:
                closed += 1
    return sockets, closed


def life_s(address: tuple[str, int], handshake: bool, most_s: float) -> float:
    """How long the server keeps a connection that says nothing, without or after its handshake."""
    client = RawClient(address, timeout_s=most_s)
    if handshake:
        client.handshake()
    start = time.monotonic()
    try:
        for _ in itertools.count():
            if not client.socket.recv(2**16):
                break
    except OSError:
        pass
    client.close()
    return round(time.monotonic() - start, 1)
