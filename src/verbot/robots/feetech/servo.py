"""A servo as its bus sees it: registers, and a shaft that moves, is pushed by a hand, and meets obstacles."""

from __future__ import annotations

from dataclasses import dataclass, field

from verbot.robots.feetech import registers
from verbot.robots.feetech.registers import STEPS_PER_TURN, Register

FASTEST = 3140.0  # steps/s: 46 turns a minute, without load
HARDEST = 25_400.0  # steps/s², of the largest setting
_SUBSTEP_S = 0.001
_READ_ONLY = (*range(0, 5), *range(56, 71))
_FACTORY = {
    registers.MODEL: 777,
    registers.ID: 1,
    registers.RETURN_DELAY: 250,
    registers.MAX_POSITION: 4095,
    registers.MAX_TEMPERATURE: 70,
    registers.MAX_VOLTAGE: 80,
    registers.MIN_VOLTAGE: 40,
    registers.MAX_TORQUE: 1000,
    registers.P_COEFFICIENT: 32,
    registers.D_COEFFICIENT: 32,
    registers.PROTECTION_CURRENT: 511,
    registers.PROTECTIVE_TORQUE: 20,
    registers.PROTECTION_TIME: 200,
    registers.OVERLOAD_TORQUE: 80,
    registers.TORQUE_LIMIT: 1000,
    registers.LOCK: 1,
}


@dataclass
class EmulatedServo:
    """An STS3215 that is new, unless its registers are set.

    After an overload it stays where it is, until its goal lies the other way or its torque is turned on anew.

    Args:
        number: its id.
        shaft: where the shaft stands, in steps of the encoder, 0 to 4095, before the homing offset.
        low, high: mechanical ends of the shaft's motion.
        hand: where a person holds the shaft while the torque is off.
        voltage, temperature: 0.1 V, °C.
        wakes_by_goal: a written goal turns the torque on, as the servos do.
    """

    number: int
    shaft: float = 2047.0
    low: float = -1e9
    high: float = 1e9
    hand: float | None = None
    voltage: int = 74
    temperature: int = 32
    wakes_by_goal: bool = True
    velocity: float = 0.0
    memory: bytearray = field(default_factory=lambda: bytearray(128))
    _stored: bytes = b""
    _later: tuple[int, bytes] | None = None
    _pushing_s: float = 0.0
    _pushes: int = 0  # in which direction it pushed
    _overloaded: bool = False

    def __post_init__(self) -> None:
        for register, value in _FACTORY.items():
            self.set(register, value)
        self.set(registers.ID, self.number)
        self._stored = bytes(self.memory[:40])

    def get(self, register: Register) -> int:
        return register.decode(bytes(self.memory), 0)

    def set(self, register: Register, value: int) -> None:
        """Set a register from inside, whatever the protocol allows; it outlives a loss of power."""
        sign = 1 << register.sign_bit if register.sign_bit is not None and value < 0 else 0
        data = (abs(value) | sign).to_bytes(register.size, "little")
        self.memory[register.address : register.address + register.size] = data
        if register.stored:
            self._stored = self._stored[: register.address] + data + self._stored[register.address + register.size :]

    def power_cycle(self) -> None:
        """Lose the power and get it back: the torque is off, and what was not stored is forgotten."""
        self.memory = bytearray(self._stored) + bytearray(128 - 40)
        self.set(registers.LOCK, 1)
        self.set(registers.TORQUE_LIMIT, self.get(registers.MAX_TORQUE))
        self.velocity, self._overloaded, self._pushing_s = 0.0, False, 0.0

    @property
    def present(self) -> int:
        """The position that the servo reports."""
        return round(self.shaft - self.get(registers.HOMING_OFFSET)) % STEPS_PER_TURN

    @property
    def is_driven(self) -> bool:
        return self.get(registers.TORQUE_ENABLE) == 1 and not self._overloaded

    @property
    def error(self) -> int:
        low, high = self.get(registers.MIN_VOLTAGE), self.get(registers.MAX_VOLTAGE)
        bits = 0 if low <= self.voltage <= high else 1
        bits |= 1 << 2 if self.temperature > self.get(registers.MAX_TEMPERATURE) else 0
        return bits | (1 << 5 if self._overloaded else 0)

    def read(self, address: int, size: int) -> bytes:
        for register, value in (
            (registers.PRESENT_POSITION, self.present),
            (registers.PRESENT_VELOCITY, round(self.velocity)),
            (registers.PRESENT_LOAD, 1000 if self._pushing_s else round(100 * self.velocity / FASTEST)),
            (registers.PRESENT_VOLTAGE, self.voltage),
            (registers.PRESENT_TEMPERATURE, self.temperature),
            (registers.STATUS, self.error),
            (registers.MOVING, int(abs(self.velocity) > 1)),
        ):
            self.set(register, value)
        return bytes(self.memory[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        """As a packet does: measurements stay, and below address 40 only an open lock stores."""
        for offset, byte in enumerate(data):
            if address + offset < len(self.memory) and address + offset not in _READ_ONLY:
                self.memory[address + offset] = byte
        if self.memory[registers.LOCK.address] == 0:
            self._stored = bytes(self.memory[:40])
        written = range(address, address + len(data))
        if registers.GOAL_POSITION.address in written and self.wakes_by_goal:
            self.memory[registers.TORQUE_ENABLE.address] = 1
        away = (self.get(registers.GOAL_POSITION) - self.present) * self._pushes <= 0
        if registers.TORQUE_ENABLE.address in written or (registers.GOAL_POSITION.address in written and away):
            self._overloaded, self._pushing_s = False, 0.0
        self.number = self.get(registers.ID)

    def write_later(self, address: int, data: bytes) -> None:
        self._later = (address, data)

    def act(self) -> None:
        """Carry out what was written for later."""
        if self._later is not None:
            self.write(*self._later)
            self._later = None

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        if not self.is_driven:
            self.velocity = 0.0
            self.shaft = min(max(self.shaft if self.hand is None else self.hand, self.low), self.high)
            return
        low, high = self.get(registers.MIN_POSITION), self.get(registers.MAX_POSITION)
        goal = self.get(registers.GOAL_POSITION)
        goal = min(max(goal, low), high) if low or high else goal  # both zero: several turns
        self._move(goal - self.present + (round(self.shaft) - self.shaft), seconds)

    def _move(self, distance: float, seconds: float) -> None:
        fastest = min(self.get(registers.GOAL_VELOCITY) or FASTEST, FASTEST)
        hardest = min(100.0 * self.get(registers.ACCELERATION) or HARDEST, HARDEST)
        while seconds > 0 and (abs(distance) > 0.5 or self.velocity):
            step_s = min(seconds, _SUBSTEP_S)
            seconds -= step_s
            wanted = min(fastest, (2 * hardest * abs(distance)) ** 0.5, abs(distance) / step_s) * (1 if distance > 0 else -1)
            self.velocity += min(max(wanted - self.velocity, -hardest * step_s), hardest * step_s)
            if abs(distance) <= 0.5 and abs(self.velocity) <= hardest * step_s:
                self.velocity = 0.0
            moved = min(max(self.shaft + self.velocity * step_s, self.low), self.high)
            distance -= moved - self.shaft
            blocked = moved == self.shaft and abs(distance) > 0.5 and moved in (self.low, self.high)
            self.shaft = moved
            self._pushes = 1 if distance > 0 else -1
            self._push(step_s if blocked else 0.0)
            if self._overloaded:
                return
        if seconds > 0:  # it has arrived
            self._push(0.0)

    def _push(self, seconds: float) -> None:
        """Time against an obstacle; after the protection time the servo gives way."""
        if not seconds:
            self._pushing_s = 0.0
            return
        self.velocity = 0.0
        self._pushing_s += seconds
        limit, allowed = self.get(registers.TORQUE_LIMIT), 10 * self.get(registers.OVERLOAD_TORQUE)
        if limit >= allowed and self._pushing_s > self.get(registers.PROTECTION_TIME) / 100:
            self._overloaded = True
