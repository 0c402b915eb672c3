"""What a damaged serial bus does to an SO arm: wrong goals that servos accept, wrong positions that are read.

The robot ``so101`` drives emulated servos over a wire that damages, loses and doubles bytes; the clock is not real, so a run is a
function of its seed. Each write that a servo carried out is compared with the packet that was sent, each observed position with
what the servo measured. ``plain`` trusts the checksum alone, as a driver without read-back does. A checksum of eight bits passes
one in 256 packets with several errors, so servos may carry out a few wrong writes. The record says how long they stayed, and how
far the shaft turned meanwhile, with the motion that was asked for.

Run it: python experiments/robots/serial_bus.py --commands 10000 --corrupt 0.01 --runs 5 --out serial_bus.json
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from verbot.files import write_atomic
from verbot.robots.feetech import EmulatedBus, EmulatedLine, FeetechBus, LineFaults, packets, registers
from verbot.robots.feetech.emulator import ManualClock, ServoAccess
from verbot.robots.feetech.packets import BROADCAST, Instruction, Packet
from verbot.robots.so100 import RATE_HZ, SoArm, SoArmOptions
from verbot.robots.so100_arm import emulated_arm, stored_calibration
from verbot.robots.so100_calibration import DEFAULT, JOINTS, ArmCalibration
from verbot.spec import FloatArray

TOTALS = ("wrong_writes_carried_out", "commands_that_left_a_wrong_goal", "values_read", "wrong_values_read")
GOAL, PLACE = registers.GOAL_POSITION, registers.PRESENT_POSITION


@dataclass
class Auditor:
    """A line that notes which writes were carried out otherwise than they were sent.

    A servo may carry a write out when the next packet comes: a length that is one too large makes its first byte the checksum.
    """

    line: EmulatedLine
    name: str = "the emulator"
    wrong: list[ServoAccess] = field(default_factory=list)
    carried_out: int = 0
    longest_s: float = 0.0
    furthest_steps: float = 0.0
    _meant: set[tuple[int, int, bytes]] = field(default_factory=set)  # by the latest packet that writes
    _open: dict[int, tuple[float, float]] = field(default_factory=dict)  # servo: since when, and where it was

    def now_s(self) -> float:
        return self.line.now_s()

    def sleep(self, seconds: float) -> None:
        self.line.sleep(seconds)

    def read(self, timeout_s: float) -> bytes:
        return self.line.read(timeout_s)

    def discard(self) -> None:
        self.line.discard()

    def close(self) -> None:
        self.line.close()

    def write(self, data: bytes) -> None:
        before = len(self.line.bus.writes)
        self.line.write(data)
        self._meant = set(written(Packet(data[2], data[4], data[5:-1]))) or self._meant
        for access in self.line.bus.writes[before:]:
            self.carried_out += 1
            self._mended(access.servo)
            if (access.servo, access.address, access.data) not in self._meant:
                self.wrong.append(access)
                self._open[access.servo] = (access.time_s, self.line.bus.servo(access.servo).shaft)

    def _mended(self, servo: int) -> None:
        if servo in self._open:
            since_s, shaft = self._open.pop(servo)
            self.longest_s = max(self.longest_s, self.now_s() - since_s)
            self.furthest_steps = max(self.furthest_steps, abs(self.line.bus.servo(servo).shaft - shaft))


def written(packet: Packet) -> Iterator[tuple[int, int, bytes]]:
    """What a packet asks servos to write: servo, address, bytes."""
    if packet.code == Instruction.WRITE:
        yield packet.servo, packet.parameters[0], packet.parameters[1:]
    if packet.code == Instruction.SYNC_WRITE and packet.servo == BROADCAST:
        address, size = packet.parameters[:2]
        for start in range(2, len(packet.parameters), size + 1):
            yield packet.parameters[start], address, packet.parameters[start + 1 : start + 1 + size]


def motion(calibration: ArmCalibration, commands: int, seed: int) -> FloatArray:
    """Goals (commands, 6) along sines of random frequencies through most of each range."""
    random = np.random.default_rng([seed, 1])
    rate_hz, phase = random.uniform(0.1, 0.4, len(JOINTS)), random.uniform(0, 2 * np.pi, len(JOINTS))
    wave = np.sin(2 * np.pi * rate_hz * np.arange(commands)[:, None] / RATE_HZ + phase)
    low, high = calibration.low(), calibration.high()
    return np.asarray((low + high) / 2 + 0.45 * wave * (high - low), np.float32)


class Plain:
    """The same arm, driven without reading back and without reading twice."""

    def __init__(self, bus: FeetechBus):
        self.bus = bus

    def act(self, goals: dict[int, int]) -> None:
        packet = packets.sync_write(GOAL.address, {servo: GOAL.encode(steps) for servo, steps in goals.items()})
        self.bus.line.discard()
        self.bus.line.write(packet.encode())

    def observe(self) -> dict[int, int]:
        blocks = self.bus.read_block(PLACE, PLACE, DEFAULT.servos)
        return {servo: PLACE.decode(block) for servo, block in blocks.items()}


def run(driver: str, faults: LineFaults, commands: int, seed: int, progress: bool = False) -> dict[str, Any]:
    """One arm, `commands` control steps."""
    clock = ManualClock()
    emulated = emulated_arm(DEFAULT)
    line = Auditor(EmulatedLine(emulated, clock, clock.sleep))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "arm.json"
        DEFAULT.save(path, "so101")
        arm = SoArm("so101", lambda: line, options=SoArmOptions(calibration=str(path), velocity=6.0))
        arm.connect()
        emulated.damage(faults, seed)
        plain = Plain(FeetechBus(line))
        left_wrong = wrong_values = 0
        started_s, began_s = time.monotonic(), clock()
        for step, action in enumerate(motion(DEFAULT, commands, seed)):
            goals, due_s = DEFAULT.steps(action), clock() + 1 / RATE_HZ
            if driver == "plain":
                plain.act(goals)
            else:
                arm.act(action)
            left_wrong += any(emulated.servo(servo).get(GOAL) != goal for servo, goal in goals.items())
            emulated.reads.clear()
            if driver == "plain":
                wrong_values += wrong(emulated, plain.observe())
            else:
                wrong_values += wrong(emulated, arm.observe().state)
            clock.sleep(due_s - clock())
            if progress and (step + 1) % max(commands // 10, 1) == 0:
                rate = (step + 1) / (time.monotonic() - started_s)
                left_s = (commands - step - 1) / rate
                print(f"{driver}: {step + 1} of {commands}, {rate:.0f}/s, {left_s:.0f} s left", file=sys.stderr)
        counted = plain.bus.statistics if driver == "plain" else arm.statistics
        emulated.damage(LineFaults())
        settings_wrong = sum(
            servo.get(register) != value
            for servo, joint in zip(emulated.servos, DEFAULT.joints, strict=True)
            for register, value in {**stored_calibration(joint), registers.TORQUE_ENABLE: 1, registers.LOCK: 1}.items()
        )
        seconds = clock() - began_s
        arm.close()
    return {
        "driver": driver,
        "commands": commands,
        "seed": seed,
        "faults": asdict(faults),
        "writes_carried_out": line.carried_out,
        "wrong_writes_carried_out": len(line.wrong),
        "wrong_writes": [[write.servo, write.address, write.data.hex()] for write in line.wrong[:40]],
        "longest_wrong_s": round(line.longest_s, 5),
        "furthest_wrong_steps": round(line.furthest_steps, 2),
        "commands_that_left_a_wrong_goal": left_wrong,
        "values_read": commands * len(JOINTS),
        "wrong_values_read": wrong_values,
        "settings_wrong_at_the_end": settings_wrong,
        "control_rate_hz": round(commands / seconds, 2),
        "statistics": asdict(counted),
    }


def wrong(emulated: EmulatedBus, observed: FloatArray | dict[int, int]) -> int:
    """How many observed positions the servos did not measure since their readings were cleared."""
    measured: dict[int, set[int]] = {servo: set() for servo in DEFAULT.servos}
    for access in emulated.reads:
        if access.address <= PLACE.address < access.address + len(access.data):
            measured[access.servo].add(PLACE.decode(access.data, access.address))
    if isinstance(observed, dict):
        return sum(steps not in measured[servo] for servo, steps in observed.items())
    count = 0
    for index, joint in enumerate(DEFAULT.joints):
        known = {float(DEFAULT.values(dict.fromkeys(DEFAULT.servos, steps))[index]) for steps in measured[joint.id]}
        count += float(observed[index]) not in known
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", type=int, default=10_000)
    parser.add_argument("--corrupt", type=float, default=0.01, help="probability of each byte to become another one")
    parser.add_argument("--lose", type=float, default=0.0, help="probability of each byte to vanish")
    parser.add_argument("--duplicate", type=float, default=0.0, help="probability of each byte to come twice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs", type=int, default=1, help="as many runs, with this seed and the ones after it")
    parser.add_argument("--out", type=Path, help="write the record here too")
    options = parser.parse_args()
    faults = LineFaults(corrupt=options.corrupt, lose=options.lose, duplicate=options.duplicate)
    seeds = range(options.seed, options.seed + options.runs)
    record: dict[str, Any] = {"experiment": "serial_bus"}
    for name, driver, wire in (
        ("clean", "confirmed", LineFaults()), ("plain", "plain", faults), ("confirmed", "confirmed", faults),
    ):  # fmt: skip
        runs = [run(driver, wire, options.commands, seed, progress=True) for seed in seeds]
        record[name] = {
            **{f"total_{key}": sum(each[key] for each in runs) for key in ("commands", *TOTALS)},
            **{f"most_{key}": max(each[key] for each in runs) for key in ("longest_wrong_s", "furthest_wrong_steps")},
            "runs": runs,
        }
    if options.out:
        write_atomic(options.out, json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
