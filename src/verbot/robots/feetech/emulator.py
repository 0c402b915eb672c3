"""A bus of servos that are not there: for tests, and to try everything without hardware.

It obeys packets as servos do, over a wire that can lose, damage, double and delay bytes. `EmulatedLine` reaches it within this
process, `PseudoTerminal` as a serial port of this machine.
"""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verbot.robots.feetech.packets import BROADCAST, FRAME, HEADER, Instruction, Packet, checksum
from verbot.robots.feetech.servo import EmulatedServo

_SILENCE_S = 0.002  # a servo forgets half a packet after it


@dataclass(frozen=True)
class LineFaults:
    """How bad a wire is, in both directions.

    Args:
        corrupt, lose, duplicate: probability of each byte to become another one, to vanish, to come twice.
        delay: probability of a reply to come `delay_s` later.
    """

    corrupt: float = 0.0
    lose: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    delay_s: float = 0.05


@dataclass(frozen=True)
class ServoAccess:
    """What a packet made a servo write or send. `packet` counts those that arrived whole."""

    packet: int
    time_s: float
    servo: int
    address: int
    data: bytes


class EmulatedBus:
    """Servos and their wire.

    Args:
        faults: how bad the wire is.
        seed: what it damages is a function of this and of the bytes that pass.
        baud: bits a second.
        hand: where a person holds the shaft of a servo, by its id and the time, while its torque is off; None: nobody does.
    """

    def __init__(
        self,
        servos: Sequence[EmulatedServo],
        faults: LineFaults = LineFaults(),
        seed: int = 0,
        baud: int = 1_000_000,
        hand: Callable[[int, float], float | None] = lambda servo, time_s: None,
    ):
        self.servos, self.faults, self.hand = list(servos), faults, hand
        self.byte_s = 10 / baud
        self.writes: list[ServoAccess] = []
        self.reads: deque[ServoAccess] = deque(maxlen=256)  # what was sent, before the wire
        self.packets = 0
        self._random = np.random.default_rng(seed)
        self._buffer, self._heard_s, self._moved_s = bytearray(), float("-inf"), float("nan")

    def damage(self, faults: LineFaults, seed: int = 0) -> None:
        """From now on the wire is as bad as this."""
        self.faults, self._random = faults, np.random.default_rng(seed)

    def servo(self, number: int) -> EmulatedServo:
        return next(servo for servo in self.servos if servo.number == number)

    def advance(self, now_s: float) -> None:
        """Let time pass until `now_s`."""
        seconds = now_s - self._moved_s if self._moved_s == self._moved_s else 0.0
        self._moved_s = now_s
        for servo in self.servos:
            servo.hand = self.hand(servo.number, now_s)
            servo.advance(max(seconds, 0.0))

    def receive(self, data: bytes, now_s: float) -> list[tuple[float, bytes]]:
        """What the master sends; returns what the wire brings back, and when."""
        self.advance(now_s)
        if now_s - self._heard_s > _SILENCE_S:
            self._buffer.clear()
        self._heard_s = now_s
        self._buffer += self._damaged(data)
        due, answers = now_s, list[tuple[float, bytes]]()
        while (packet := self._next()) is not None:
            self.packets += 1
            for reply in self._obey(packet, now_s):
                sent = reply.encode()
                due += self.byte_s * len(sent)
                late = self.faults.delay_s if self.faults.delay and self._random.random() < self.faults.delay else 0.0
                answers.append((due + late, self._damaged(sent)))
        return answers

    def _next(self) -> Packet | None:
        """The next whole packet; a damaged one is dropped."""
        buffer = self._buffer
        while (start := buffer.find(HEADER)) >= 0:
            del buffer[:start]
            if len(buffer) < 4:
                return None
            servo, size = buffer[2:4]
            length = size + FRAME - 2
            if servo == 0xFF or size < 2:
                del buffer[:1]
                continue
            if len(buffer) < length:
                return None
            content = bytes(buffer[2:length])
            del buffer[:length]
            if checksum(content[:-1]) == content[-1]:
                return Packet(servo, content[2], content[3:-1])
        return None

    def _obey(self, packet: Packet, now_s: float) -> list[Packet]:
        code, parameters = packet.code, packet.parameters
        if code == Instruction.SYNC_READ and len(parameters) > 2:
            asked = [servo for number in parameters[2:] for servo in self.servos if servo.number == number]
            return [self._read(servo, now_s, parameters[0], parameters[1]) for servo in asked]
        if code == Instruction.SYNC_WRITE and len(parameters) > 2:
            address, size = parameters[:2]
            for start in range(2, len(parameters) - size, size + 1):
                self._write(parameters[start], address, parameters[start + 1 : start + 1 + size], now_s)
            return []
        reached = [servo for servo in self.servos if packet.servo in (servo.number, BROADCAST)]
        replies = [self._answer(servo, packet, now_s) for servo in reached]
        return [reply for reply in replies if reply is not None and packet.servo != BROADCAST]

    def _answer(self, servo: EmulatedServo, packet: Packet, now_s: float) -> Packet | None:
        code, parameters = packet.code, packet.parameters
        if code == Instruction.READ and len(parameters) == 2:
            return self._read(servo, now_s, parameters[0], parameters[1])
        if code == Instruction.WRITE and len(parameters) > 1:
            number = servo.number
            self._write(number, parameters[0], parameters[1:], now_s)
            return Packet(number, servo.error)
        if code == Instruction.WRITE_LATER and len(parameters) > 1:
            servo.write_later(parameters[0], parameters[1:])
        elif code == Instruction.ACTION:
            servo.act()
        elif code != Instruction.PING:
            return None
        return Packet(servo.number, servo.error)

    def _write(self, number: int, address: int, data: bytes, now_s: float) -> None:
        for servo in [each for each in self.servos if each.number == number]:
            self.writes.append(ServoAccess(self.packets, now_s, number, address, data))
            servo.write(address, data)

    def _read(self, servo: EmulatedServo, now_s: float, address: int, size: int) -> Packet:
        data = servo.read(address, size)
        self.reads.append(ServoAccess(self.packets, now_s, servo.number, address, data))
        return Packet(servo.number, servo.error, data)

    def _damaged(self, data: bytes) -> bytes:
        faults = self.faults
        if not (faults.corrupt or faults.lose or faults.duplicate):
            return data
        chances, out = self._random.random((len(data), 3)), bytearray()
        for byte, (corrupt, lose, duplicate) in zip(data, chances, strict=True):
            if lose < faults.lose:
                continue
            if corrupt < faults.corrupt:
                byte = (byte + int(self._random.integers(1, 256))) % 256
            out += bytes([byte] * (2 if duplicate < faults.duplicate else 1))
        return bytes(out)


class ManualClock:
    """A clock that only sleeping advances: what runs on it is a function of its seeds, and takes no time."""

    def __init__(self, now_s: float = 0.0):
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += max(seconds, 0.0)


class EmulatedLine:
    """An emulated bus as a `verbot.robots.feetech.BusLine` of this process. Bytes take their time.

    Args:
        clock, sleep: seconds, and how to wait for them; those of a `ManualClock` for tests.
    """

    name = "the emulator"

    def __init__(
        self, bus: EmulatedBus, clock: Callable[[], float] = time.monotonic, sleep: Callable[[float], None] = time.sleep
    ):
        self.bus, self._clock, self.sleep = bus, clock, sleep
        self._coming: list[tuple[float, bytes]] = []

    def now_s(self) -> float:
        return self._clock()

    def write(self, data: bytes) -> None:
        self.sleep(self.bus.byte_s * len(data))
        self._coming += self.bus.receive(data, self._clock())
        self._coming.sort(key=lambda coming: coming[0])

    def read(self, timeout_s: float) -> bytes:
        now_s = self._clock()
        first_s = self._coming[0][0] if self._coming else float("inf")
        self.sleep(min(max(first_s - now_s, 0.0), timeout_s))
        return self._arrived()

    def discard(self) -> None:
        self._arrived()

    def close(self) -> None:
        self._coming.clear()

    def _arrived(self) -> bytes:
        now_s = self._clock()
        arrived = b"".join(data for due_s, data in self._coming if due_s <= now_s + 1e-9)
        self._coming = [coming for coming in self._coming if coming[0] > now_s + 1e-9]
        return arrived


class PseudoTerminal:
    """An emulated bus behind a serial port, `path`, that any program can open, while the context lasts.

    Example:
        >>> with PseudoTerminal(EmulatedBus([EmulatedServo(1)])) as path:
        ...     path.startswith("/dev/")
        True
    """

    def __init__(self, bus: EmulatedBus):
        self._bus = bus

    def __enter__(self) -> str:
        self._master, self._slave = os.openpty()
        tty.setraw(self._slave)
        self._wake, self._end = os.pipe()
        self._thread = threading.Thread(target=self._serve, name="emulated bus", daemon=True)
        self._thread.start()
        return os.ttyname(self._slave)

    def __exit__(self, *error: object) -> None:
        os.close(self._end)
        self._thread.join(timeout=5)
        for descriptor in (self._wake, self._master, self._slave):
            os.close(descriptor)

    def _serve(self) -> None:
        coming: list[tuple[float, bytes]] = []
        while True:
            wait_s = max(coming[0][0] - time.monotonic(), 0.0) if coming else 0.02
            ready, _, _ = select.select([self._master, self._wake], [], [], wait_s)
            if self._wake in ready:
                return
            now_s = time.monotonic()
            if self._master in ready:
                coming += self._bus.receive(os.read(self._master, 4096), now_s)
                coming.sort(key=lambda each: each[0])
            else:
                self._bus.advance(now_s)
            while coming and coming[0][0] <= now_s:
                os.write(self._master, coming.pop(0)[1])
