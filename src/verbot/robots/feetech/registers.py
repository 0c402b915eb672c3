"""Registers of the STS3215 and its relatives of the STS and SMS series.

Addresses below 40 keep their values without power where the lock is open. Numbers with a sign are a magnitude and a sign bit.
Source: Feetech's memory table of the STS series, and LeRobot's ``motors/feetech/tables.py``.
"""

from __future__ import annotations

from dataclasses import dataclass

from verbot.errors import RobotError

STEPS_PER_TURN = 4096
MODELS = {777: "STS3215", 2825: "STS3250"}  # whose table this is, and whose encoder has so many steps


@dataclass(frozen=True)
class Register:
    """A number in the memory of a servo.

    Args:
        size: bytes, little-endian.
        low, high: the values that may be written.
        sign_bit: which bit is the sign of the magnitude below it, if there is one.
        stored: whether it outlives a loss of power, and is written with the lock open.

    Example:
        >>> HOMING_OFFSET.encode(-5), HOMING_OFFSET.decode(b"\\x05\\x08")
        (b'\\x05\\x08', -5)
    """

    name: str
    address: int
    size: int = 1
    low: int = 0
    high: int = 254
    sign_bit: int | None = None
    writable: bool = True

    @property
    def stored(self) -> bool:
        return self.address < 40

    def encode(self, value: int) -> bytes:
        """The bytes of a value. Raises `RobotError` if the register cannot be written or the value is out of its range."""
        if not self.writable:
            raise RobotError(f"register {self.name} of a servo cannot be written; it is a measurement")
        if not self.low <= value <= self.high:
            raise RobotError(f"register {self.name} of a servo takes {self.low} to {self.high}; got {value}")
        magnitude = abs(value) | (1 << self.sign_bit if self.sign_bit is not None and value < 0 else 0)
        return magnitude.to_bytes(self.size, "little")

    def decode(self, data: bytes, start: int | None = None) -> int:
        """The value in the bytes from address `start` on; without it, in the bytes of this register alone."""
        offset = 0 if start is None else self.address - start
        value = int.from_bytes(data[offset : offset + self.size], "little")
        if self.sign_bit is None or not value >> self.sign_bit & 1:
            return value & ((1 << self.sign_bit) - 1) if self.sign_bit is not None else value
        return -(value & ((1 << self.sign_bit) - 1))


MODEL = Register("Model_Number", 3, 2, writable=False)
ID = Register("ID", 5, high=253)
RETURN_DELAY = Register("Return_Delay_Time", 7)  # 2 µs
MIN_POSITION = Register("Min_Position_Limit", 9, 2, high=4095)
MAX_POSITION = Register("Max_Position_Limit", 11, 2, high=4095)
MAX_TEMPERATURE = Register("Max_Temperature_Limit", 13, high=100)  # °C
MAX_VOLTAGE = Register("Max_Voltage_Limit", 14)  # 0.1 V
MIN_VOLTAGE = Register("Min_Voltage_Limit", 15)  # 0.1 V
MAX_TORQUE = Register("Max_Torque_Limit", 16, 2, high=1000)  # 0.1 %, copied to Torque_Limit at power-on
P_COEFFICIENT = Register("P_Coefficient", 21)
D_COEFFICIENT = Register("D_Coefficient", 22)
I_COEFFICIENT = Register("I_Coefficient", 23)
PROTECTION_CURRENT = Register("Protection_Current", 28, 2, high=2047)  # 6.5 mA
HOMING_OFFSET = Register("Homing_Offset", 31, 2, low=-2047, high=2047, sign_bit=11)  # present = encoder − offset
OPERATING_MODE = Register("Operating_Mode", 33, high=3)  # 0: position
PROTECTIVE_TORQUE = Register("Protective_Torque", 34, high=100)  # %, after an overload
PROTECTION_TIME = Register("Protection_Time", 35)  # 10 ms
OVERLOAD_TORQUE = Register("Overload_Torque", 36, high=100)  # %
TORQUE_ENABLE = Register("Torque_Enable", 40, high=1)  # 128 would make the present position the middle
ACCELERATION = Register("Acceleration", 41)  # 100 steps/s²; 0 is the most
GOAL_POSITION = Register("Goal_Position", 42, 2, low=0, high=4095, sign_bit=15)
GOAL_VELOCITY = Register("Goal_Velocity", 46, 2, low=0, high=32767, sign_bit=15)  # steps/s; 0 is the most
TORQUE_LIMIT = Register("Torque_Limit", 48, 2, high=1000)  # 0.1 %
LOCK = Register("Lock", 55, high=1)  # 0: what is written below address 40 is stored
PRESENT_POSITION = Register("Present_Position", 56, 2, sign_bit=15, writable=False)
PRESENT_VELOCITY = Register("Present_Velocity", 58, 2, sign_bit=15, writable=False)  # steps/s
PRESENT_LOAD = Register("Present_Load", 60, 2, sign_bit=10, writable=False)  # 0.1 %
PRESENT_VOLTAGE = Register("Present_Voltage", 62, writable=False)  # 0.1 V
PRESENT_TEMPERATURE = Register("Present_Temperature", 63, writable=False)  # °C
STATUS = Register("Status", 65, writable=False)  # the bits of `faults_of`
MOVING = Register("Moving", 66, writable=False)

FAULTS = {
    0: "the supply voltage is out of range",
    1: "the position sensor has failed",
    2: "it is too hot",
    3: "the current is too high",
    5: "it is overloaded",
}
OVERLOAD = 1 << 5


def faults_of(bits: int) -> tuple[str, ...]:
    """What the error bits of a reply, or of register `Status`, say.

    Example:
        >>> faults_of(0b100001)
        ('the supply voltage is out of range', 'it is overloaded')
    """
    return tuple(FAULTS.get(bit, f"error bit {bit} is set") for bit in range(8) if bits >> bit & 1)
