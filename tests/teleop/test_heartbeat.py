"""The dead-man's switch: who is not surely there moves nothing."""

from __future__ import annotations

import json

import pytest

from verbot.errors import WireError
from verbot.remote.heartbeat import Heartbeat
from verbot.teleop.controls import MotionCommand
from verbot.teleop.inputs import Given, Inputs


def message(**fields):
    return json.dumps(fields)


class Clock:
    now_s = 100.0

    def __call__(self):
        return self.now_s


def hear(inputs, at_s=0.0, beat=0):
    inputs.put(message(type="alive", at=1000 * at_s, beat=beat))


def living(clock):
    """Inputs whose page was heard just now."""
    inputs = Inputs(clock=clock)
    inputs.beat()
    hear(inputs)
    return inputs


def test_a_silent_page_releases_everything_until_it_is_pressed_anew():
    clock = Clock()
    inputs = living(clock)
    inputs.put(message(type="key", code="KeyW", down=True))
    inputs.put(message(type="pad", axes=[0, 0], buttons=[]))
    inputs.put(message(type="pad", axes=[1, 0], buttons=[]))
    for _ in range(3):  # no heartbeat for 0.3 s is no silence yet
        assert inputs.take().motion == MotionCommand(right=1.0, away=1.0)
        clock.now_s += 0.1
    clock.now_s += 0.01
    assert not inputs.take().motion.moves
    with pytest.raises(WireError, match="KeyD has no effect: the page was not heard for 0.3 s, or only late; press it again"):
        inputs.put(message(type="key", code="KeyD", down=True))
    with pytest.raises(WireError, match="Space has no effect"):
        inputs.put(message(type="key", code="Space", down=True))
    hear(inputs, 0.31)
    inputs.put(message(type="pad", axes=[0.9, 0], buttons=[1]))
    assert inputs.take() == Given(), "held keys and sticks have no effect, and a held button presses nothing"
    inputs.put(message(type="pad", axes=[0, 0], buttons=[]))
    inputs.put(message(type="pad", axes=[-1, 0], buttons=[]))
    inputs.put(message(type="key", code="KeyW", down=True))
    assert inputs.take().motion == MotionCommand(right=-1.0, away=1.0)


def test_a_gap_counts_even_if_no_control_step_fell_into_it():
    clock = Clock()
    inputs = living(clock)
    inputs.put(message(type="key", code="KeyW", down=True))
    clock.now_s += 1.0
    hear(inputs, 1.0)
    assert not inputs.take().motion.moves


def test_a_gamepad_at_rest_in_a_silence_needs_no_second_rest():
    clock = Clock()
    inputs = living(clock)
    inputs.put(message(type="pad", axes=[0, 0], buttons=[]))
    clock.now_s += 1.0
    assert not inputs.take().motion.moves
    hear(inputs, 1.0)
    inputs.put(message(type="pad", axes=[1, 0], buttons=[]))
    assert inputs.take().motion.right == 1


def test_a_late_heartbeat_is_no_heartbeat():
    """Heartbeats that lay in a buffer come all at once; only those that were sent within 0.3 s count, and no key before them."""
    clock = Clock()
    inputs = living(clock)
    clock.now_s += 5.0
    for at_s in (0.1, 2.0, 4.6):
        hear(inputs, at_s)
        with pytest.raises(WireError, match="KeyW has no effect"):
            inputs.put(message(type="key", code="KeyW", down=True))
    inputs.beat()
    hear(inputs, 4.8, beat=1)
    inputs.put(message(type="key", code="KeyW", down=True))
    assert inputs.take().motion.away == 1


def test_a_page_of_unknown_delay_is_not_alive_before_it_answers_a_beat():
    clock = Clock()
    inputs = Inputs(clock=clock)
    hear_nothing = message(type="key", code="KeyW", down=True)
    with pytest.raises(WireError, match="KeyW has no effect"):
        inputs.put(hear_nothing)
    with pytest.raises(WireError, match="beat 0 was not sent yet; the latest is -1"):
        hear(inputs)
    inputs.beat()
    clock.now_s += 1.0  # on the way there or back: nobody knows
    hear(inputs)
    with pytest.raises(WireError, match="KeyW has no effect"):
        inputs.put(hear_nothing)


def test_a_page_that_gets_nothing_is_not_alive():
    """Its heartbeats come, but the pictures stand still: it repeats an old beat."""
    clock = Clock()
    inputs = living(clock)
    for tenth in range(1, 30):
        clock.now_s += 0.1
        if tenth % 5 == 0:
            inputs.beat()
        hear(inputs, 0.1 * tenth, beat=0)
        if tenth <= 15:
            inputs.put(message(type="key", code="KeyW", down=True))
    assert not inputs.take().motion.moves


@pytest.mark.parametrize("rate", [1 - 1e-4, 1 + 1e-4])
def test_clocks_that_drift_apart_stay_in_touch(rate):
    clock = Clock()
    heartbeat = Heartbeat(clock)
    for second in range(3 * 3600):
        clock.now_s = 100.0 + second
        beat = heartbeat.beat()
        clock.now_s += 0.05
        heartbeat.hear((second + 0.05) * rate, beat)
        clock.now_s += 0.05
        assert heartbeat.alive
        clock.now_s += 0.3
        assert not heartbeat.alive
