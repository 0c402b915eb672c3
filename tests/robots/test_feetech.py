"""The bus of Feetech servos: packets to the bit, damaged and lost bytes, writes that are confirmed."""

import numpy as np
import pytest

from verbot.errors import RobotError
from verbot.robots.feetech import (
    BusTiming,
    EmulatedBus,
    EmulatedLine,
    EmulatedServo,
    FeetechBus,
    LineFaults,
    Packet,
    PseudoTerminal,
    SerialLine,
    packets,
    registers,
)
from verbot.robots.feetech.emulator import ManualClock
from verbot.robots.feetech.packets import Instruction, Replies

SERVOS = (1, 2, 3, 4, 5, 6)
CLEAN = LineFaults()


def virtual(faults=CLEAN, seed=0, servos=SERVOS, **timing):
    """A bus and its emulator, on a clock that takes no time."""
    clock = ManualClock()
    emulated = EmulatedBus([EmulatedServo(number) for number in servos], faults, seed)
    return FeetechBus(EmulatedLine(emulated, clock, clock.sleep), {1: "first"}, BusTiming(**timing)), emulated, clock


# Examples of Feetech's protocol manual, and of programs that talk to real servos.
@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (Packet(1, Instruction.PING), "ff ff 01 02 01 fb"),
        (Packet(1, Instruction.READ, bytes([56, 2])), "ff ff 01 04 02 38 02 be"),
        (Packet(1, Instruction.WRITE, bytes([40, 1])), "ff ff 01 04 03 28 01 ce"),
        (Packet(1, Instruction.WRITE, bytes([42, 0, 8])), "ff ff 01 05 03 2a 00 08 c4"),
        (Packet(1, Instruction.WRITE, bytes([42, 0, 8, 0, 0, 0xE8, 3])), "ff ff 01 09 03 2a 00 08 00 00 e8 03 d5"),
        (
            packets.sync_write(42, {servo: bytes([0, 8, 0xE8, 3]) for servo in (1, 2)}),
            "ff ff fe 0e 83 2a 04 01 00 08 e8 03 02 00 08 e8 03 59",
        ),
        (packets.sync_read(56, 8, (1, 2)), "ff ff fe 06 82 38 08 01 02 36"),
        (Packet(1, 0, bytes([0x18, 5])), "ff ff 01 04 00 18 05 dd"),
    ],
)
def test_packets_are_those_of_the_manual(packet, expected):
    assert packet.encode().hex(" ") == expected


@pytest.mark.parametrize(
    ("register", "value", "data"),
    [
        (registers.HOMING_OFFSET, -5, "0508"),
        (registers.HOMING_OFFSET, 2047, "ff07"),
        (registers.GOAL_POSITION, 3000, "b80b"),
        (registers.TORQUE_ENABLE, 1, "01"),
    ],
)
def test_registers_are_little_endian_with_a_sign_bit(register, value, data):
    assert register.encode(value).hex() == data
    assert register.decode(bytes.fromhex(data)) == value


def test_signs_of_measurements():
    assert registers.PRESENT_VELOCITY.decode(bytes.fromhex("6480")) == -100
    assert registers.PRESENT_LOAD.decode(bytes.fromhex("6404")) == -100
    assert registers.PRESENT_POSITION.decode(bytes.fromhex("0100"), 56) == 1


@pytest.mark.parametrize(
    ("register", "value", "message"),
    [
        (registers.GOAL_POSITION, 4096, "takes 0 to 4095; got 4096"),
        (registers.HOMING_OFFSET, -2048, "takes -2047 to 2047"),
        (registers.TORQUE_ENABLE, 128, "takes 0 to 1"),
        (registers.PRESENT_POSITION, 3, "cannot be written"),
    ],
)
def test_values_out_of_range_are_not_sent(register, value, message):
    bus, emulated, _ = virtual()
    with pytest.raises(RobotError, match=message):
        bus.write(1, register, value)
    assert not emulated.writes and bus.statistics.sent == 0


def test_a_bus_reads_and_writes():
    bus, _, clock = virtual()
    assert [bus.ping(servo) for servo in (1, 6)] == [True, True]
    assert bus.read(2, registers.MODEL) == 777
    bus.write_all(registers.GOAL_POSITION, {1: 2100, 2: 2000})
    clock.sleep(1.0)
    assert bus.read_all(registers.PRESENT_POSITION, (1, 2, 3)) == {1: 2100, 2: 2000, 3: 2047}
    assert bus.statistics.errors == 0 and bus.statistics.retries == 0


def test_stored_registers_need_the_lock_and_outlive_the_power():
    bus, emulated, _ = virtual()
    bus.write(1, registers.MIN_POSITION, 100)  # with the lock closed
    bus.store(2, {registers.MIN_POSITION: 100, registers.P_COEFFICIENT: 16})
    assert bus.read(1, registers.MIN_POSITION) == 100 and bus.read(2, registers.LOCK) == 1
    for servo in emulated.servos:
        servo.power_cycle()
    assert bus.read_all(registers.MIN_POSITION, (1, 2)) == {1: 0, 2: 100}
    writes = len(emulated.writes)
    bus.store(2, {registers.MIN_POSITION: 100})
    assert len(emulated.writes) == writes, "what is stored already is not written again"


def test_silence_is_an_error_within_the_patience_that_names_the_servo():
    bus, _, clock = virtual(servos=(2, 3), patience_s=0.1)
    for call in (lambda: bus.read(1, registers.MODEL), lambda: bus.write_all(registers.TORQUE_ENABLE, {1: 1, 2: 1})):
        started_s = clock()
        with pytest.raises(RobotError, match=r"'first' \(servo 1\) on the emulator does not answer"):
            call()
        assert clock() - started_s < 0.2
    assert bus.ping(1) is False and bus.statistics.timeouts > 0


def test_a_value_that_a_servo_does_not_take_is_an_error():
    bus, emulated, _ = virtual()
    emulated.servo(1).write = lambda address, data: None
    with pytest.raises(RobotError, match=r"does not take .*'first' \(servo 1\) keeps 0"):
        bus.write(1, registers.TORQUE_ENABLE, 1)


def test_replies_are_found_behind_any_damage():
    good = [Packet(servo, 0, bytes([servo, 0xFF])).encode() for servo in SERVOS]
    random = np.random.default_rng(0)
    for _ in range(300):
        garbage = bytes(random.choice([0xFF, 1, 4, 200], size=random.integers(0, 12)).astype(np.uint8))
        broken = bytearray(good[1])
        broken[random.integers(0, len(broken))] ^= 1 << random.integers(0, 8)
        stream = garbage + good[0] + bytes(broken) + b"".join(good[2:])
        replies = Replies(SERVOS, 2)
        for start in range(0, len(stream), 5):
            replies.feed(stream[start : start + 5])
        assert {servo: found.parameters for servo, found in replies.found.items() if servo != 2} == {
            servo: bytes([servo, 0xFF]) for servo in SERVOS if servo != 2
        }
        assert replies.found.get(2, Packet(2, 0, bytes([2, 0xFF]))).parameters == bytes([2, 0xFF])


def test_replies_of_others_and_of_another_length_do_not_count():
    replies = Replies((1,), 2)
    replies.feed(Packet(2, 0, b"\1\2").encode() + Packet(1, 0, b"\1").encode() + Packet(1, 0, b"\1\2\3").encode())
    assert not replies.complete and replies.missing == (1,)


@pytest.mark.parametrize("echoes", [False, True])
def test_what_an_adapter_returns_is_no_servo(echoes):
    bus, emulated, _ = virtual()
    line, receive = bus.line, emulated.receive
    line.bus.receive = lambda data, now_s: [*([(now_s, data)] if echoes else []), *receive(data, now_s)]
    emulated.servo(1).voltage = 20
    assert [bus.ping(servo) for servo in (1, 6, 7)] == [True, True, False]
    bus.write_all(registers.GOAL_POSITION, {1: 2100})
    assert bus.read(1, registers.GOAL_POSITION) == 2100 and bus.faults((1,), {})
    # The answer of a servo with a broken sensor, in this place, is the question bit for bit.
    emulated.servo(1).shaft, emulated.servo(1).velocity = float(0x0238), 0.0
    emulated.servo(1).read = lambda address, size: bytes([address, size])
    assert bus.read(1, registers.PRESENT_POSITION) == 0x0238


@pytest.mark.parametrize("faults", [LineFaults(corrupt=0.02), LineFaults(lose=0.01), LineFaults(duplicate=0.01)])
def test_no_wrong_goal_stays_on_a_bad_line(faults):
    bus, emulated, clock = virtual(faults, seed=3)
    random = np.random.default_rng(1)
    for _ in range(60):
        goals = {servo: int(random.integers(1000, 3000)) for servo in SERVOS}
        bus.write_all(registers.GOAL_POSITION, goals)
        assert {servo: emulated.servo(servo).get(registers.GOAL_POSITION) for servo in SERVOS} == goals
        emulated.reads.clear()
        for servo, place in bus.read_all(registers.PRESENT_POSITION, SERVOS, tolerance=16).items():
            measured = [registers.PRESENT_POSITION.decode(read.data) for read in emulated.reads if read.servo == servo]
            assert place in measured
        clock.sleep(0.02)
    counted = bus.statistics
    assert counted.corrected and counted.retries and counted.checksum_errors + counted.timeouts and bus.is_noisy


def test_a_reading_that_only_the_checksum_likes_is_not_believed():
    """Two errors that cancel out in the checksum pass it; on a noisy line a second reading must agree."""
    bus, _, _ = virtual()
    line = bus.line
    read, damaged = line.read, []

    def cheating(timeout_s):
        data = bytearray(read(timeout_s))
        if len(data) == 8 and not damaged:
            data[5], data[6] = (data[5] + 40) % 256, (data[6] - 40) % 256
            damaged.append(bytes(data))
        return bytes(data)

    line.read = cheating
    assert bus.read(1, registers.PRESENT_POSITION) != 2047, "the checksum does not notice"
    damaged.clear()
    assert not bus.ping(9) and bus.is_noisy
    assert bus.read(1, registers.PRESENT_POSITION) == 2047
    assert damaged and bus.statistics.disagreements


def test_faults_are_asked_for_again_before_they_are_believed():
    bus, emulated, _ = virtual()
    emulated.servo(3).temperature = 90
    bus.read_all(registers.PRESENT_POSITION, SERVOS)
    assert bus.faults(SERVOS, {}) == {3: ("it is too hot",)}
    assert bus.faults(SERVOS, {3: 1 << 2}) == {}
    bus.errors[4] = 1 << 5  # a damaged reply said so
    assert 4 not in bus.faults(SERVOS, {})


def test_what_was_written_for_later_waits_for_the_action():
    _, emulated, _ = virtual()
    goal = bytes([registers.GOAL_POSITION.address]) + registers.GOAL_POSITION.encode(2500)
    emulated.receive(Packet(1, Instruction.WRITE_LATER, goal).encode(), 0.0)
    assert emulated.servo(1).get(registers.GOAL_POSITION) == 0
    emulated.receive(Packet(1, Instruction.ACTION).encode(), 0.1)
    assert emulated.servo(1).get(registers.GOAL_POSITION) == 2500


def test_an_emulated_servo_keeps_its_speed_its_acceleration_and_its_limits():
    servo = EmulatedServo(1)
    for register, value in ((registers.MAX_POSITION, 3000), (registers.GOAL_VELOCITY, 500), (registers.ACCELERATION, 10)):
        servo.set(register, value)
    servo.write(registers.GOAL_POSITION.address, registers.GOAL_POSITION.encode(4000))
    speeds = [servo.velocity]
    for _ in range(400):
        servo.advance(0.01)
        speeds.append(servo.velocity)
    assert servo.present == 3000 and max(speeds) <= 500
    assert np.abs(np.diff(speeds)).max() <= 10 * 100 * 0.01 + 1e-6


def test_an_emulated_servo_gives_way_to_an_obstacle_until_it_turns_back():
    servo = EmulatedServo(1, high=2100)
    servo.write(registers.GOAL_POSITION.address, registers.GOAL_POSITION.encode(2500))
    servo.advance(1.0)
    assert servo.error == 0 and servo.present == 2100
    servo.advance(2.0)
    assert servo.error == registers.OVERLOAD and not servo.is_driven
    servo.write(registers.GOAL_POSITION.address, registers.GOAL_POSITION.encode(2047))
    servo.advance(1.0)
    assert servo.error == 0 and servo.present == 2047


def test_a_pseudo_terminal_is_a_serial_port_of_servos():
    emulated = EmulatedBus([EmulatedServo(number) for number in SERVOS], LineFaults(corrupt=0.01), seed=5)
    with PseudoTerminal(emulated) as path:
        bus = FeetechBus(SerialLine(path), timing=BusTiming(patience_s=10.0))
        assert bus.ping(4)
        for goal in (2100, 2000, 2050):
            bus.write_all(registers.GOAL_POSITION, dict.fromkeys(SERVOS, goal))
            assert bus.read_all(registers.GOAL_POSITION, SERVOS) == dict.fromkeys(SERVOS, goal)
        with pytest.raises(RobotError, match="cannot be opened"):
            SerialLine(path)  # it is in use
        bus.close()
        bus.close()


def test_a_lost_port_and_one_that_is_not_there_are_named():
    with PseudoTerminal(EmulatedBus([EmulatedServo(1)])) as path:
        line = SerialLine(path)
    with pytest.raises(RobotError, match=f"serial port {path} is lost"):
        FeetechBus(line, timing=BusTiming(patience_s=0.01)).read(1, registers.MODEL)
    line.close()
    with pytest.raises(RobotError, match="/dev/ttyNONE cannot be opened: No such file"):
        SerialLine("/dev/ttyNONE")
