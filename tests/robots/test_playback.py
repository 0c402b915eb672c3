"""A recording as a robot: frames by the clock, commands compared with what was recorded."""

import numpy as np
import pytest

from verbot.contracts import AgingRobot
from verbot.data import open_dataset
from verbot.data.storage.writer import example_dataset
from verbot.errors import ConfigError, RobotError
from verbot.robots import make_robot


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return str(example_dataset(tmp_path_factory.mktemp("recorded") / "d"))


def test_frames_come_by_the_clock_and_the_last_one_grows_old(path):
    now, recorded = [50.0], open_dataset(path)[1]
    robot = make_robot("playback", path=path, episode=1, clock=lambda: now[0])
    assert isinstance(robot, AgingRobot)
    with pytest.raises(RobotError, match="not connected"):
        robot.observe()
    robot.connect()
    with pytest.raises(RobotError, match="connected already"):
        robot.connect()
    for period, age_s, frame in ((0, 0.0, 0), (3, 0.05, 3), (11, 0.0, 11), (14, 0.0, 11)):
        now[0] = 50.0 + period / 10 + age_s
        seen = robot.observe()
        np.testing.assert_array_equal(seen.state, recorded.states[frame])
        np.testing.assert_array_equal(seen.images["front"], recorded.images("front")[frame])
        assert (seen.instruction, seen.time_s) == ("touch the blue cube", pytest.approx(frame / 10))
        assert robot.ages_s()["front"] == pytest.approx(age_s if period < 12 else 0.3)
    robot.close()


def test_commands_are_compared_with_the_recorded_actions(path):
    now, recorded = [0.0], open_dataset(path)[0]
    robot = make_robot("playback", path=path, clock=lambda: now[0])
    robot.connect()
    assert robot.report().commanded == 0
    for frame in range(4):
        now[0] = frame / 10 + 0.02
        robot.act(recorded.actions[frame] + (0.02, 0, 0, 0.5 * (frame == 2)))
        robot.act(recorded.actions[frame] + 9)  # the second in a period
    now[0] = 5.0
    robot.act(recorded.actions[0])  # after the end
    report = robot.report()
    assert (report.frames, report.commanded) == (12, 4)
    assert report.difference["position_delta"] == pytest.approx((0.02 / 3, 0.02), abs=1e-6)
    assert report.difference["gripper"] == pytest.approx((0.125, 0.5), abs=1e-6)
    with pytest.raises(RobotError, match=r"has shape \(2,\); expected \(4,\)"):
        robot.act(np.zeros(2, np.float32))


def test_it_plays_at_another_rate_and_in_a_loop_and_refuses_what_is_not_there(path):
    now = [0.0]
    robot = make_robot("playback", path=path, rate_hz=50.0, loop=True, clock=lambda: now[0])
    robot.connect()
    now[0] = 13 / 50
    seen = robot.observe()
    assert robot.spec.rate_hz == 50 and seen.time_s == pytest.approx(13 / 50)
    np.testing.assert_array_equal(seen.state, open_dataset(path)[0].states[1])
    with pytest.raises(ConfigError, match="has no episode 2; it has 2, counted from 0"):
        make_robot("playback", path=path, episode=2)
    with pytest.raises(ConfigError, match="rate_hz is 0"):
        make_robot("playback", path=path, rate_hz=0.0)
