"""A bus of Feetech servos: commands that are confirmed, values that are checked, errors that are counted.

An 8-bit checksum misses one in 256 damaged packets. So what is written is read back, and on a line with errors values are read
twice. Every command can be repeated without harm, and is, for a bounded time.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from verbot.errors import RobotError
from verbot.robots.feetech import packets
from verbot.robots.feetech.line import BusLine
from verbot.robots.feetech.packets import FRAME, Instruction, Packet, Replies
from verbot.robots.feetech.registers import ID, LOCK, STATUS, Register, faults_of

T = TypeVar("T")
FEWEST_ATTEMPTS = 3
# After an error, for so many exchanges what is read is read twice.
DISTRUST = 300
_FEW = 20  # replies whose time must be known before the bus waits less
_SLACK_S = 0.002


@dataclass(frozen=True)
class BusTiming:
    """Time limits of a bus.

    Args:
        baud: bits a second; a byte takes ten.
        reply_s: how long the first byte of a reply may take at most; the latency of the adapter is most of it. Once the bus knows
            that it is faster, it waits less.
        gap_s: after so long a silence within replies nothing more comes.
        patience_s: how long a command is repeated before the bus is given up.
    """

    baud: int = 1_000_000
    reply_s: float = 0.02
    gap_s: float = 0.004
    patience_s: float = 0.15


@dataclass(frozen=True)
class BusStatistics:
    """What a bus has counted.

    Args:
        sent: packets that were sent.
        retries: those that repeated one.
        checksum_errors: replies that arrived damaged.
        timeouts: replies that did not arrive.
        corrected: values that a servo held otherwise than they were written, and that were written again.
        disagreements: values that were read twice and differed.
    """

    sent: int = 0
    retries: int = 0
    checksum_errors: int = 0
    timeouts: int = 0
    corrected: int = 0
    disagreements: int = 0

    @property
    def errors(self) -> int:
        return self.checksum_errors + self.timeouts + self.corrected + self.disagreements


class FeetechBus:
    """Servos on one line. Its methods may be called from several threads; each command has the line for itself.

    Args:
        line: an open `BusLine`; `close` closes it.
        names: names of the servos by id, for messages.

    Every method raises `RobotError` that names the servo if it does not answer in time, and if the line is lost.
    """

    def __init__(self, line: BusLine, names: Mapping[int, str] | None = None, timing: BusTiming = BusTiming()):
        self._line, self._names, self._timing = line, dict(names or {}), timing
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._clean = DISTRUST  # exchanges since the last error
        self._wait_s, self._slowest_s, self._timed = timing.reply_s, 0.0, 0
        self._echoes: bool | None = None  # whether the adapter returns what is sent; None while that is unknown
        self.errors: dict[int, int] = {}  # the error bits of each servo's latest reply

    @property
    def statistics(self) -> BusStatistics:
        return BusStatistics(**self._counts)

    @property
    def is_noisy(self) -> bool:
        """Whether there was an error of late, so that what is read is read twice."""
        return self._clean < DISTRUST

    @property
    def line(self) -> BusLine:
        return self._line

    def name(self, servo: int) -> str:
        return f"{self._names[servo]!r} (servo {servo})" if servo in self._names else f"servo {servo}"

    def close(self) -> None:
        self._line.close()

    def ping(self, servo: int) -> bool:
        """Whether the servo answers: whether it reads its id.

        `Instruction.PING` is not used: a servo with a voltage fault answers it with the bytes of an adapter that returns what is
        sent.
        """
        return self._until(lambda: self._ask(ID.address, ID.size, [servo]) or None) is not None

    def read(self, servo: int, register: Register, tolerance: int = 0) -> int:
        """The value of a register, of two readings that agree if the line is noisy."""
        return self.read_all(register, [servo], tolerance)[servo]

    def write(self, servo: int, register: Register, value: int) -> None:
        """Write a register and read it back. Raises `RobotError` also if the servo keeps another value."""
        self.write_all(register, {servo: value})

    def store(self, servo: int, values: Mapping[Register, int]) -> None:
        """Write registers that outlive a loss of power: those that differ, with the lock open in between."""
        differing = {register: value for register, value in values.items() if self.read(servo, register) != value}
        if differing:
            self.write(servo, LOCK, 0)
            try:
                for register, value in differing.items():
                    self.write(servo, register, value)
            finally:
                self.write(servo, LOCK, 1)

    def read_block(self, first: Register, last: Register, servos: Sequence[int]) -> dict[int, bytes]:
        """The bytes from register `first` to register `last` of each servo, as one reading that is not repeated."""
        size = last.address + last.size - first.address
        found: dict[int, bytes] = {}

        def attempt() -> dict[int, bytes] | None:
            found.update(self._ask(first.address, size, [servo for servo in servos if servo not in found]))
            return found if len(found) == len(servos) else None

        if self._until(attempt) is None:
            self._give_up([servo for servo in servos if servo not in found])
        return found

    def read_all(
        self, register: Register, servos: Sequence[int], tolerance: int = 0, through: Register | None = None
    ) -> dict[int, int]:
        """The value of a register of each servo.

        Args:
            tolerance: by how much two readings may differ on a noisy line, of a value that moves. The later one is returned.
            through: read up to this register, so that the replies are longer than those to other commands, which may be late.
        """

        def reading(asked: Sequence[int]) -> dict[int, int]:
            return {servo: register.decode(data) for servo, data in self.read_block(register, through or register, asked).items()}

        values, doubtful = reading(servos), list(servos) if self.is_noisy else []
        limit_s = self._line.now_s() + self._timing.patience_s
        while doubtful:
            again = reading(doubtful)
            doubtful = [servo for servo in doubtful if abs(again[servo] - values[servo]) > tolerance]
            values.update(again)
            if doubtful:
                self._count(disagreements=len(doubtful))
                if self._line.now_s() > limit_s:
                    raise RobotError(f"register {register.name} of {self._list(doubtful)} reads differently each time")
        return values

    def read_once(self, register: Register, servos: Sequence[int], tolerance: int) -> dict[int, int]:
        """The value of a register of the servos that answer at once, twice and alike. Nothing is repeated, nobody is missed."""
        first, second = (self._ask(register.address, register.size, servos) for _ in range(2))
        both = {servo: (register.decode(first[servo]), register.decode(second[servo])) for servo in first if servo in second}
        return {servo: late for servo, (early, late) in both.items() if abs(early - late) <= tolerance}

    def write_once(self, register: Register, values: Mapping[int, int]) -> None:
        """Write a register of several servos once, without knowing whether it arrives: before `write_all`, where time counts."""
        data = {servo: register.encode(value) for servo, value in values.items()}
        with self._lock:
            if data:
                self._send(packets.sync_write(register.address, data).encode())

    def write_all(self, register: Register, values: Mapping[int, int]) -> None:
        """Write a register of several servos in one packet, read it back, and repeat what did not arrive."""
        data = {servo: register.encode(value) for servo, value in values.items()}
        pending = dict(data)

        def attempt() -> bool | None:
            # A synchronous write has no reply: nothing but the reading shows whether it arrived.
            with self._lock:
                self._send(packets.sync_write(register.address, pending).encode())
                held = self._ask(register.address, register.size, list(pending))
            wrong = [servo for servo in held if held[servo] != pending[servo]]
            if wrong:
                self._count(corrected=len(wrong))
            for servo in held:
                if servo not in wrong:
                    del pending[servo]
            return None if pending else True

        if self._until(attempt) is None:
            held = self._ask(register.address, register.size, list(pending))
            if len(held) < len(pending):
                self._give_up([servo for servo in pending if servo not in held])
            kept = ", ".join(f"{self.name(servo)} keeps {register.decode(value)}" for servo, value in held.items())
            raise RobotError(f"register {register.name} does not take {dict(values)}: {kept}")

    def faults(self, servos: Sequence[int], tolerated: Mapping[int, int]) -> dict[int, tuple[str, ...]]:
        """What is the matter with servos, but for the bits that are `tolerated` of each.

        The bits of their latest replies decide whether they are asked at all, so that a damaged reply is no fault.
        """
        suspects = [servo for servo in servos if self.errors.get(servo, 0) & ~tolerated.get(servo, 0)]
        status = self.read_all(STATUS, suspects) if suspects else {}
        return {servo: found for servo, bits in status.items() if (found := faults_of(bits & ~tolerated.get(servo, 0)))}

    def _ask(self, address: int, size: int, servos: Sequence[int]) -> dict[int, bytes]:
        """One attempt to read bytes of several servos: what came back whole."""
        if len(servos) == 1:
            packet = Packet(servos[0], Instruction.READ, bytes([address, size]))
        else:
            packet = packets.sync_read(address, size, servos)
        return {servo: reply.parameters for servo, reply in self._exchange(packet, servos, size).items()}

    def _until(self, attempt: Callable[[], T | None]) -> T | None:
        """The first result of `attempt`, which is repeated for the patience of this bus."""
        limit_s, attempts = self._line.now_s() + self._timing.patience_s, 0
        while attempts < FEWEST_ATTEMPTS or self._line.now_s() < limit_s:
            if attempts:
                self._count(retries=1)
            if (result := attempt()) is not None:
                return result
            attempts += 1
        return None

    def _exchange(self, packet: Packet, servos: Sequence[int], size: int) -> dict[int, Packet]:
        """Send a packet and collect replies with `size` parameters."""
        sent, timing = packet.encode(), self._timing
        replies = Replies(servos, size, echo=b"" if self._echoes is False else sent)
        expected = len(servos) * (size + FRAME)
        with self._lock:
            self._send(sent)
            now_s = self._line.now_s()
            sent_s, first_s = now_s, None
            limit_s = now_s + self._wait_s + 10 / timing.baud * (len(sent) + expected)
            until_s = limit_s
            while not replies.complete and now_s < until_s:
                data = self._line.read(until_s - now_s)
                now_s = self._line.now_s()
                if data:
                    first_s = first_s if first_s is not None else now_s - sent_s
                    replies.feed(data)
                    until_s = min(limit_s, now_s + timing.gap_s)
                if replies.received >= expected:  # damaged ones among them; the next packet starts on a silent line
                    break
        self._learn(first_s)
        if replies.found and size != 2:  # with two bytes an answer can look like the question
            self._echoes = not replies.echo and self._echoes is not False
        for servo, reply in replies.found.items():
            self.errors[servo] = reply.code
        lost = len(replies.missing)
        damaged = min(lost, max(replies.damaged, 1 if replies.received >= expected else 0))
        self._count(checksum_errors=damaged, timeouts=lost - damaged)
        self._clean = 0 if lost else self._clean + 1
        return replies.found

    def _learn(self, first_s: float | None) -> None:
        """How long to wait for a first byte: some times the slowest of late; after a silence twice as long as before."""
        if first_s is None:
            self._wait_s = min(2 * self._wait_s, self._timing.reply_s)
            return
        self._timed += 1
        self._slowest_s = max(first_s, 0.98 * self._slowest_s)
        if self._timed >= _FEW:
            self._wait_s = min(_SLACK_S + 4 * self._slowest_s, self._timing.reply_s)

    def _send(self, data: bytes) -> None:
        self._line.discard()
        self._line.write(data)
        self._count(sent=1)

    def _count(self, **more: int) -> None:
        self._counts.update(more)
        if more.get("corrected") or more.get("disagreements"):
            self._clean = 0

    def _list(self, servos: Sequence[int]) -> str:
        return ", ".join(self.name(servo) for servo in servos)

    def _give_up(self, servos: Sequence[int]) -> None:
        plural = "do not answer" if len(servos) > 1 else "does not answer"
        raise RobotError(
            f"{self._list(servos)} on {self._line.name} {plural}; check the supply, the cables from servo to servo, and the ids"
        )
