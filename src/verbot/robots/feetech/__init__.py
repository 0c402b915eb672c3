"""Feetech's servos on a serial bus, and an emulator of both. `FeetechBus` talks to either."""

from __future__ import annotations

from verbot.robots.feetech.bus import BusStatistics, BusTiming, FeetechBus
from verbot.robots.feetech.emulator import EmulatedBus, EmulatedLine, EmulatedServo, LineFaults, PseudoTerminal
from verbot.robots.feetech.line import BusLine, SerialLine, serial_ports
from verbot.robots.feetech.packets import Packet
from verbot.robots.feetech.registers import Register

__all__ = [
    "BusStatistics",
    "BusTiming",
    "EmulatedBus",
    "EmulatedLine",
    "EmulatedServo",
    "FeetechBus",
    "BusLine",
    "LineFaults",
    "Packet",
    "PseudoTerminal",
    "Register",
    "SerialLine",
    "serial_ports",
]
