"""Robots by command: list, check, calibrate, replay, and what records and drives them."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from verbot import cli
from verbot.data.storage.writer import example_dataset
from verbot.errors import ConfigError, RobotError
from verbot.robots import leaders, robots
from verbot.robots.options import from_words
from verbot.spec import Camera, Component, MotionLimits, Observation, RobotSpec
from verbot.workflows import robot as robot_workflow
from verbot.workflows import robot_driving
from verbot.workflows.robot import calibrate_device, check_robot, lacking_limits, replay_episode
from verbot.workflows.robot_driving import RobotByName


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        cli.main(["robot", *words])
    printed = capsys.readouterr()
    return end.value.code, printed.out, printed.err


def test_every_kind_is_listed(capsys):
    code, out, _ = run(capsys, "list", "--json")
    rows = {(row["kind"], row["name"]) for row in json.loads(out)}
    assert code == 0
    assert {("robot", "simulated-process"), ("robot", "playback"), ("camera", "v4l2"), ("camera", "rtsp")} <= rows
    assert "simulated-process" in run(capsys, "list")[1]


def test_check_finds_missing_limits_and_wrong_options(capsys):
    code, out, _ = run(capsys, "check", "simulated", "--robot-set", "env=navigation", "request.task=go", "--seconds", "0.01")
    assert code == 0 and "lacking: robot 'navigation-rover' has no max_age_s" in out
    code, _, err = run(capsys, "check", "simulated", "--robot-set", "envs=navigation")
    assert code == 2 and "robot 'simulated' has no field 'envs'. Did you mean 'env'?" in err
    assert run(capsys, "check", "simulatd")[2].startswith("verbot: there is no robot named 'simulatd'. Did you mean 'simulated'?")
    with pytest.raises(ConfigError, match="seed is 'x'; expected int"):
        from_words(robots, "simulated", ["seed=x"])
    with pytest.raises(ConfigError, match="robot 'playback' lacks the field 'path'"):
        from_words(robots, "playback", [])


X = Component("x", "joint_position", ("slide",), "m", "base", (0.0,), (1.0,))
SPEC = RobotSpec("slide", 10.0, (Camera("front", 2, 2),), (X,), (X,), limits=(MotionLimits("x", step=(0.1,)),), max_age_s=0.5)


class Slide:
    """A robot with its own clock; its camera stalls after a second."""

    spec = SPEC

    def __init__(self, width=2):
        self.now_s, self.width, self.calls = 0.0, width, []

    def clock(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds

    def connect(self):
        self.calls.append("connect")

    def observe(self):
        return Observation({"front": np.zeros((2, self.width, 3), np.uint8)}, np.zeros(1, np.float32), time_s=self.now_s)

    def ages_s(self):
        return {"state": self.now_s % 0.1, "front": max(0.0, self.now_s - 1.0)}

    def act(self, action):
        self.calls.append("act")

    def stop(self):
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")


def test_a_check_measures_rates_and_ages_and_commands_nothing():
    slide = Slide()
    result = check_robot(slide, 2.0, slide.clock, slide.sleep)
    assert slide.calls == ["connect", "close"]
    assert result.parts["state"]["rate_hz"] == pytest.approx(10, abs=1)
    assert result.parts["front"]["age_ms"][2] == pytest.approx(1000, abs=60)
    assert not result.lacking and result.problems == ("front was 1.00 s old; the spec allows 0.5 s",)
    assert any("problem: front was" in line for line in result.lines())
    wide = Slide(3)
    assert "expected uint8 (2, 2, 3)" in check_robot(wide, 0.1, wide.clock, wide.sleep).problems[0]
    assert lacking_limits(RobotSpec("slide", 10.0, (), (X,), (X,)))[0].startswith("robot 'slide' has no motion limits for 'x'")


def test_recorded_actions_are_played_through_the_guard(tmp_path, capsys, monkeypatch):
    path, now = str(example_dataset(tmp_path / "d")), [0.0]
    clock, sleep = lambda: now[0], lambda seconds: now.__setitem__(0, now[0] + seconds)
    robot = from_words(robots, "playback", [f"path={path}", "episode=1"])
    robot._clock = clock
    with pytest.raises(ConfigError, match="no motion limits for 'position_delta'.*--unguarded"):
        replay_episode(robot, path, 1, clock=clock, sleep=sleep)
    result = replay_episode(robot, path, 1, 6, unguarded=True, clock=clock, sleep=sleep)
    assert (result.steps, result.late, result.seconds) == (6, 0, pytest.approx(0.6))
    assert robot.report().commanded == 6 and robot.report().difference["gripper"] == (0.0, 0.0)
    assert result.state_error["ee_position"] == (0.0, 0.0)
    slow, commanded = iter((0.0, 0.0, 0.35, 0.0, 0.0, 0.0)), []
    monkeypatch.setattr(robot, "act", lambda action: sleep(next(slow)) or commanded.append(round(now[0], 6)))
    begun_s, late = now[0], replay_episode(robot, path, 1, 6, unguarded=True, clock=clock, sleep=sleep).late
    assert late == 1 and np.allclose(np.subtract(commanded, begun_s), [0.0, 0.1, 0.55, 0.65, 0.75, 0.85])
    with monkeypatch.context() as patched:  # the spec says no limit of age
        patched.setattr(robot, "act", lambda action: None)
        patched.setattr(robot_workflow, "oldest_s", lambda robot: 1.5)
        assert replay_episode(robot, path, 1, 6, unguarded=True, clock=clock, sleep=sleep).changed == {"age": 6}
    with pytest.raises(ConfigError, match="has no episode 7; it has 2"):
        replay_episode(robot, path, 7)
    with pytest.raises(ConfigError, match="whose actions 'slide' cannot execute: .*action.* differ"):
        replay_episode(Slide(), path, 0)
    words = [
        "replay",
        "playback",
        path,
        "0",
        "--robot-set",
        f"path={path}",
        "rate_hz=10",
        "--unguarded",
        "--steps",
        "2",
        "--json",
    ]
    code, out, _ = run(capsys, *words)
    assert code == 0 and json.loads(out)["steps"] == 2


class CopyArm:
    """A leader arm that is calibrated in two steps."""

    def __init__(self, port: str = "here"):
        self.port = port

    def connect(self):
        """Nothing to open."""

    def read(self):
        return np.zeros(1, np.float32)

    def close(self):
        """Nothing to close."""

    def calibrate(self, ask):
        ask("move it to the middle.")
        if self.port == "nowhere":
            raise RobotError("no arm at nowhere")
        return f"/{self.port}.json"


def test_calibration_asks_step_by_step(capsys, monkeypatch):
    monkeypatch.setitem(leaders._factories, "copy-arm", CopyArm)
    asked = []
    assert calibrate_device("copy-arm", ["port=there"], asked.append, leader=True) == "/there.json"
    assert asked == ["move it to the middle."]
    monkeypatch.setattr("builtins.input", asked.append)
    assert run(capsys, "calibrate", "--leader", "copy-arm")[:2] == (0, "/here.json\n")
    assert asked[-1] == "move it to the middle. Press Enter when it is done. "
    assert run(capsys, "calibrate", "--leader", "copy-arm", "--robot-set", "port=nowhere")[0] == 2
    assert "needs no calibration" in run(capsys, "calibrate", "simulated")[2]


def test_a_robot_is_opened_with_its_leader_arm_and_both_are_closed(monkeypatch):
    closed, slide = [], Slide()
    monkeypatch.setitem(leaders._factories, "copy-arm", CopyArm)
    monkeypatch.setattr(CopyArm, "close", lambda self: closed.append("leader"))
    monkeypatch.setitem(robots._factories, "slide", lambda: slide)
    with RobotByName("slide", leader="copy-arm", leader_words=["port=x"]).opened() as (robot, read):
        assert robot is slide and read().tolist() == [0.0]
    assert closed == ["leader"] and slide.calls == ["connect", "close"]
    with pytest.raises(ConfigError, match="give --leader or --policy"):
        RobotByName("slide", leader="copy-arm", policy="starter")
    with pytest.raises(ConfigError, match="give --leader too"):
        RobotByName("slide", leader_words=["port=x"])
    assert RobotByName("slide").agent(SPEC) is None
    other = RobotSpec("cart", 10.0, (), (X,), (Component("v", "velocity", ("x",), "m/s", "base", (-1.0,), (1.0,)),))
    monkeypatch.setattr(robot_driving, "open_policy", lambda name: SimpleNamespace(spec=other))
    with pytest.raises(ConfigError, match="mine is of robot 'cart', whose actions 'slide' cannot execute: name, action differ"):
        RobotByName("slide", policy="mine").agent(SPEC)
