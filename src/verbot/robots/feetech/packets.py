"""Packets of Feetech's serial protocol: two bytes 0xFF, the servo, the length, a code, parameters, and a checksum.

The code of a packet to a servo is an instruction; that of a reply is the servo's error bits. Source: Feetech's communication
protocol manual for the SCS and STS series, and LeRobot's ``motors/feetech``. Numbers of two bytes are little-endian (STS, SMS).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

HEADER = b"\xff\xff"
BROADCAST = 0xFE  # every servo obeys and none replies, but to a synchronous read
FRAME = 6  # bytes of a packet beside its parameters
MOST_PARAMETERS = 250 - FRAME


class Instruction(IntEnum):
    """What a packet asks of a servo."""

    PING = 0x01
    READ = 0x02
    WRITE = 0x03
    WRITE_LATER = 0x04
    ACTION = 0x05
    SYNC_READ = 0x82
    SYNC_WRITE = 0x83


@dataclass(frozen=True)
class Packet:
    """One packet, of either direction.

    Example:
        >>> Packet(1, Instruction.READ, bytes([56, 2])).encode().hex(" ")
        'ff ff 01 04 02 38 02 be'
    """

    servo: int
    code: int
    parameters: bytes = b""

    def encode(self) -> bytes:
        body = bytes([self.servo, len(self.parameters) + 2, self.code]) + self.parameters
        return HEADER + body + bytes([checksum(body)])


def checksum(body: bytes | bytearray) -> int:
    """Of the bytes between the header and the checksum: the complement of the low byte of their sum."""
    return ~sum(body) & 0xFF


def sync_write(address: int, data: Mapping[int, bytes]) -> Packet:
    """The packet that writes bytes, as many for each servo, from `address` on."""
    size = len(next(iter(data.values())))
    parameters = b"".join(bytes([servo]) + each for servo, each in data.items())
    return Packet(BROADCAST, Instruction.SYNC_WRITE, bytes([address, size]) + parameters)


def sync_read(address: int, size: int, servos: Collection[int]) -> Packet:
    """The packet that asks several servos, in this order, for `size` bytes from `address` on."""
    return Packet(BROADCAST, Instruction.SYNC_READ, bytes([address, size, *servos]))


@dataclass
class Replies:
    """Finds the replies of known servos, of a known size, in a stream of bytes that may be damaged.

    A packet counts if servo, length and checksum are right. Of anything else one byte is dropped and the search goes on behind
    it, so that a damaged length hides no reply that follows.

    Args:
        servos: whose replies are expected.
        size: number of parameters of each.
        echo: what was sent, if the adapter may return it first, because it has one wire for both directions.
    """

    servos: Sequence[int]
    size: int
    echo: bytes = b""
    found: dict[int, Packet] = field(default_factory=dict)
    damaged: int = 0  # packets with a wrong checksum
    received: int = 0  # bytes
    _buffer: bytearray = field(default_factory=bytearray)

    @property
    def complete(self) -> bool:
        return len(self.found) == len(self.servos)

    @property
    def missing(self) -> tuple[int, ...]:
        return tuple(servo for servo in self.servos if servo not in self.found)

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self.received += len(data)
        if self.echo and (start := self._buffer.find(self.echo)) >= 0:
            del self._buffer[: start + len(self.echo)]
            self.received -= start + len(self.echo)
            self.echo = b""
        for packet in self._packets():
            self.found.setdefault(packet.servo, packet)

    def _packets(self) -> Iterator[Packet]:
        buffer, length = self._buffer, self.size + FRAME
        while (start := buffer.find(HEADER)) >= 0:
            del buffer[:start]
            if len(buffer) < length:
                return
            servo, size, code = buffer[2:5]
            if servo in self.servos and size == self.size + 2:
                if checksum(buffer[2 : length - 1]) == buffer[length - 1]:
                    yield Packet(servo, code, bytes(buffer[5 : length - 1]))
                    del buffer[:length]
                    continue
                self.damaged += 1
            del buffer[:1]
        del buffer[: -1 if buffer.endswith(HEADER[:1]) else None]
