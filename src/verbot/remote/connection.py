"""One client of a `verbot.remote.connections.ConnectionServer`: its messages one at a time, with a time limit on everything."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from websockets.frames import BINARY, CONT, TEXT, Frame
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

READ_BYTES, MORE_BYTES = 2**12, 2**16  # in one turn: what may begin messages; what goes on with one
POST_BYTES = 2**23  # unsent at most, of what `Connection.post` was given
AHEAD = 256  # messages at most that a client sends before the first of them was dealt with
FRAMES, PAUSE_S = 8, 0.05  # of a turn that complete no message, and how long a client that sends more has to wait
AHEAD_BYTES, AHEAD_PAUSE_S = 64, 0.05  # who asks again before it has its answer is answered no faster than this
GRACE_S, LEAST_BYTES_PER_S = 5.0, 2**16  # a message may take this long, and longer in proportion to its length
LEAST_WHILE_OTHERS_WAIT = 2**19  # bytes a second, instead, while the room is taken
POLICY_VIOLATION, TRY_AGAIN_LATER, INVALID_DATA = 1008, 1013, 1007
LOGGER = logging.getLogger("verbot.connections.protocol")
LOGGER.setLevel(logging.CRITICAL)  # a client must not fill the log


@dataclass(frozen=True)
class ConnectionLimits:
    """What a server takes from its clients.

    Args:
        message_bytes: of one message.
        connections: at most so many at once, and never more than `most_connections`. Beyond it the client that has said nothing
            for the longest is closed for a new one (1013) if that is longer than `idle_s`; otherwise the new one gets 503.
        unfinished_bytes: of the messages of all clients that are being received and dealt with; by default three messages, and
            64 MiB at least. Beyond it nothing more is read, but for the oldest message, and a small share of each client.
        handshake_s: until a client has sent its request, TLS included.
        silence_s: a client that says nothing for half of it is sent a ping, and dropped if it does not answer within the other.
        idle_s: longer than a robot or a person pauses between two messages: who asked within it keeps the connection. Answers to
            pings do not count.
        send_s: a client that does not read is dropped after it.
        close_s: `ConnectionServer.close` takes no longer than twice this.
    """

    message_bytes: int
    connections: int = 256
    unfinished_bytes: int | None = None
    handshake_s: float = 4.0
    silence_s: float = 4.0
    idle_s: float = 60.0
    send_s: float = 4.0
    close_s: float = 0.8


@dataclass
class Room:
    """What the connections of one server share.

    Args:
        most: how many there may be.
        call: calls a function in the server's thread, from any thread.
        bytes: of messages that are being received and dealt with.
        held: how many of them are taken now; `answering` those of messages that are dealt with.
        receiving: connections with an unfinished message above their share, the oldest first.
        waiting: how many of them wait for room.
        changed: set for a moment when there may be room.
    """

    most: int
    call: Callable[..., None]
    bytes: int
    held: int = 0
    answering: int = 0
    receiving: dict[Connection, None] = field(default_factory=dict)
    waiting: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @staticmethod
    def of(limits: ConnectionLimits, most: int, call: Callable[..., None]) -> Room:
        budget = limits.unfinished_bytes
        return Room(min(limits.connections, most), call, max(2**26, 3 * limits.message_bytes) if budget is None else budget)

    def admits(self, connection: Connection) -> bool:
        """Whether more may be read of a message that is received. The oldest goes on unless what is dealt with fills the room."""
        if self.held <= self.bytes or connection not in self.receiving:
            return True
        return next(iter(self.receiving)) is connection and self.answering <= self.bytes / 4

    def wake(self) -> None:
        """Let those that wait look again."""
        if self.waiting:
            self.changed.set()
            self.changed.clear()


class CountingReader(asyncio.StreamReader):
    """A reader that knows how many bytes have come, so that nobody has to wait to find out whether there are more."""

    fed = 0

    def feed_data(self, data: bytes) -> None:  # type: ignore[override]  # of asyncio it is bytes too
        self.fed += len(data)
        super().feed_data(data)


class Connection:
    """One client. `post` and `close` may be called from any thread, the rest in `WebsocketService.converse`."""

    def __init__(self, room: Room, limits: ConnectionLimits, reader: CountingReader, writer: asyncio.StreamWriter):
        self._room, self._limits, self._reader, self._writer = room, limits, reader, writer
        self._taken = 0  # bytes of what the reader was fed
        self._protocol = ServerProtocol(max_size=self._limits.message_bytes, logger=LOGGER)
        self._parts, self._is_text, self._partial = bytearray(), False, 0
        self._is_answered, self._ahead = False, b""  # read before the last message was answered
        self._since: float | None = None  # when the message that is being received began
        self.held, self._answering = 0, 0  # bytes of messages that are being received or dealt with; and of the latter alone
        self.silent_since: float | None = time.monotonic()  # None while a message is dealt with
        self.path, self.silence_s = "", self._limits.silence_s  # what was asked for; a service may be more patient

    async def messages(self, last: bool = False) -> AsyncIterator[bytes | str]:
        """The client's messages until it leaves or is dropped. The next is read when the loop comes back for it.

        Args:
            last: also those that came together with its goodbye.
        """
        while self._protocol.state is State.OPEN:
            frames = await self._receive()
            waiting = deque(message for frame in frames if (message := self._joined(frame)) is not None)
            if len(waiting) > AHEAD:
                self.start_closing(POLICY_VIOLATION, f"more than {AHEAD} messages at once: wait for the answers")
            await asyncio.sleep(PAUSE_S if len(frames) - len(waiting) > FRAMES else 0)
            del frames
            while waiting and (self._protocol.state is State.OPEN or (last and self._protocol.close_rcvd_then_sent)):
                message = waiting.popleft()
                self._hold(len(message), len(message))
                self.silent_since, self._is_answered = None, False
                yield message
                del message
                if self._is_answered and (waiting or len(self._ahead) > AHEAD_BYTES):
                    await asyncio.sleep(AHEAD_PAUSE_S)
                self.silent_since = time.monotonic()
                self._hold(0)

    async def send(self, data: bytes | str) -> None:
        """Send a message. Raises `ConnectionError` if the client has left, `TimeoutError` if it does not read."""
        self._is_answered = True
        if not self._ahead and self._reader.fed > self._taken:  # only what is there already
            self._ahead = await self._take(READ_BYTES)
        self._write(data)
        await self._flush()

    def post(self, data: bytes | str) -> None:
        """Send a message later, in order; it is lost if the client leaves. A client that does not read is dropped."""
        self._room.call(self._post, data)

    def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye, and drop the connection soon after."""
        self._room.call(self.start_closing, code, reason)

    def drop(self) -> None:
        """Close at once, in the server's thread."""
        self._writer.transport.abort()
        self._room.wake()

    async def handshake(self, admit: Callable[[Request], Response | None]) -> bool:
        """Whether the client was admitted; otherwise it has had its response."""
        events: list[object] = []
        while not events and self._protocol.state is State.CONNECTING and not self._protocol.close_expected():
            self._feed(await self._take(READ_BYTES))
            events = list(self._protocol.events_received())
        if events and isinstance(request := events[0], Request):
            self.path = request.path
            self._protocol.send_response(admit(request) or self._protocol.accept(request))
        await self._flush()
        return self._protocol.state is State.OPEN

    async def finish(self) -> None:
        """Wait until what was sent has left, and the client has closed too, but not for long."""
        self.start_closing(1000, "")
        count = 0
        try:
            async with asyncio.timeout(self._limits.close_s):
                while data := await self._reader.read(READ_BYTES):
                    count += len(data)
                    if count <= MORE_BYTES:  # more is no goodbye, and nothing is kept of it
                        self._feed(data)
                        self._protocol.events_received()
                        self._flush_some()  # says goodbye after the client did, which waits for it
        except (OSError, TimeoutError):
            pass
        finally:
            self._hold(0)
            self.drop()

    def _feed(self, data: bytes) -> None:
        if data:
            self._protocol.receive_data(data)
        else:
            self._protocol.receive_eof()

    async def _receive(self) -> list[Frame]:
        """The frames in what the client sent next."""
        data = await self._read()
        self._feed(data)
        frames = [event for event in self._protocol.events_received() if isinstance(event, Frame)]
        self._partial = 0 if frames else self._partial + len(data)
        await self._flush()
        return frames

    async def _read(self) -> bytes:
        """The next bytes, none at the end. Raises `TimeoutError` if the client is not there."""
        await self._wait_for_room()
        if self._ahead:
            data, self._ahead = self._ahead, b""
            return data
        most = MORE_BYTES if self._partial else READ_BYTES
        try:
            async with asyncio.timeout(self.silence_s / 2):
                return await self._take(most)
        except TimeoutError:
            self._protocol.send_ping(b"")
        await self._flush()
        async with asyncio.timeout(self.silence_s / 2):
            return await self._take(most)

    async def _take(self, most: int) -> bytes:
        data = await self._reader.read(most)
        self._taken += len(data)
        return data

    async def _wait_for_room(self) -> None:
        """Read no further while the room is taken. Raises `TimeoutError` for a message that arrives too slowly."""
        held, now = len(self._parts) + self._partial, time.monotonic()
        self._hold(held)
        self._since = (self._since or now) if held else None
        if self._since is None:
            return
        took = now - self._since
        self._room.waiting += 1
        try:
            while not self._room.admits(self) and not self._writer.transport.is_closing():
                await self._room.changed.wait()
        finally:
            self._room.waiting -= 1
        self._since += time.monotonic() - now  # what it waited does not count
        is_full = self._room.waiting > 0
        if took > GRACE_S + held / (LEAST_WHILE_OTHERS_WAIT if is_full else LEAST_BYTES_PER_S):
            code = TRY_AGAIN_LATER if is_full else POLICY_VIOLATION
            self.start_closing(code, "a message took too long" + (", and others wait" if is_full else ""))
            raise TimeoutError

    def _joined(self, frame: Frame) -> bytes | str | None:
        """The message that this frame completes."""
        if frame.opcode not in (TEXT, BINARY, CONT):
            return None
        if frame.opcode is not CONT:
            self._is_text = frame.opcode is TEXT
            if frame.fin:
                return self._decoded(bytes(frame.data))
        self._parts += frame.data
        if not frame.fin:
            return None
        message, self._parts = bytes(self._parts), bytearray()
        return self._decoded(message)

    def _decoded(self, message: bytes) -> bytes | str | None:
        if not self._is_text:
            return message
        try:
            return message.decode()
        except UnicodeDecodeError:
            self.start_closing(INVALID_DATA, "a text message is not UTF-8")
            return None

    def _hold(self, count: int, answering: int = 0) -> None:
        room = self._room
        room.held += count - self.held
        room.answering += answering - self._answering
        has_ended = count < self.held or answering > 0
        self.held, self._answering = count, answering
        if not answering and count > room.bytes / room.most:
            room.receiving.setdefault(self)
        else:
            room.receiving.pop(self, None)
        if has_ended:
            room.wake()

    def _write(self, data: bytes | str) -> None:
        if self._protocol.state is not State.OPEN:
            raise ConnectionError("the client has left")
        if isinstance(data, str):
            self._protocol.send_text(data.encode())
        else:
            self._protocol.send_binary(data)

    async def _flush(self) -> None:
        self._flush_some()
        transport = self._writer.transport
        if transport.get_write_buffer_size() or transport.is_closing():  # otherwise there is nothing to wait for
            async with asyncio.timeout(self._limits.send_s):
                await self._writer.drain()

    def _flush_some(self) -> None:
        for data in self._protocol.data_to_send():
            if data:
                self._writer.write(data)
            elif self._writer.can_write_eof():
                self._writer.write_eof()
            else:  # TLS cannot be closed on one side
                self._writer.close()

    def _post(self, data: bytes | str) -> None:
        if self._protocol.state is State.OPEN:
            self._write(data)
            self._flush_some()
            if self._writer.transport.get_write_buffer_size() > POST_BYTES:
                self.drop()

    def start_closing(self, code: int, reason: str) -> None:
        """`close`, in the server's thread."""
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(code, reason)
            asyncio.get_running_loop().call_later(self._limits.close_s, self.drop)
        self._flush_some()
