"""What carries the bytes of a bus: a serial port, or an emulator in this process."""

from __future__ import annotations

import os
import select
import termios
import time
from typing import Any, Protocol

from verbot.errors import RobotError, missing

# What pyserial raises once a device is gone; without a file descriptor a TypeError.
_LOST = (OSError, ValueError, TypeError, termios.error)


class BusLine(Protocol):
    """An open connection to a bus. Its methods raise `RobotError` once it is lost."""

    @property
    def name(self) -> str: ...

    def now_s(self) -> float:
        """Seconds on the clock that time limits are measured with."""
        ...

    def sleep(self, seconds: float) -> None: ...

    def write(self, data: bytes) -> None: ...

    def read(self, timeout_s: float) -> bytes:
        """What has arrived, at least one byte unless the time is over before."""
        ...

    def discard(self) -> None:
        """Drop what has arrived and was not read."""
        ...

    def close(self) -> None:
        """Safe also twice."""
        ...


class SerialLine:
    """A serial port, for this process alone.

    Raises `RobotError` if it cannot be opened, `MissingDependencyError` without pyserial.
    """

    def __init__(self, port: str, baud: int = 1_000_000):
        try:
            import serial
        except ModuleNotFoundError as error:
            raise missing(error) from error
        self.name = port
        try:
            self._serial: Any = serial.Serial(port, baud, timeout=0, write_timeout=1, exclusive=True)
        except (OSError, ValueError) as error:  # SerialException is an OSError
            raise RobotError(f"serial port {port} cannot be opened: {_reason(error)}; {_advice(port)}") from error

    def now_s(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def write(self, data: bytes) -> None:
        try:
            self._serial.write(data)
        except _LOST as error:
            raise self._lost(error) from error

    def read(self, timeout_s: float) -> bytes:
        try:
            ready, _, _ = select.select([self._serial.fileno()], [], [], max(timeout_s, 0))
            return bytes(self._serial.read(4096)) if ready else b""
        except _LOST as error:
            raise self._lost(error) from error

    def discard(self) -> None:
        try:
            self._serial.reset_input_buffer()
        except _LOST as error:
            raise self._lost(error) from error

    def close(self) -> None:
        self._serial.close()

    def _lost(self, error: Exception) -> RobotError:
        return RobotError(f"serial port {self.name} is lost ({_reason(error)}); servos keep their last goal. Plug it in again")


def serial_ports() -> tuple[str, ...]:
    """The serial ports of this machine that USB adapters make."""
    folder = "/dev"
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    return tuple(f"{folder}/{name}" for name in names if name.startswith(("ttyACM", "ttyUSB", "cu.usbmodem", "cu.usbserial")))


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error).partition("\n")[0]


def _advice(port: str) -> str:
    if os.path.exists(port):
        return "is another program using it, and may this user (often: a member of group dialout)?"
    return f"there are {', '.join(serial_ports()) or 'none of a USB adapter'}"
