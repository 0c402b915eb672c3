"""`verbot run`: a policy, here or behind an address, drives a simulated robot, guarded and recorded."""

import json
import threading

import numpy as np
import pytest

from verbot.cli import main
from verbot.data import open_dataset
from verbot.deploy import PolicyServer
from verbot.deploy.loop import LoopTime
from verbot.envs import make_env
from verbot.errors import ConfigError, UnknownNameError
from verbot.robots.simulated import SimulatedRobot
from verbot.spec import ActionChunk
from verbot.workflows.run import RunConfig, run

TEXT = "put the red cube in the blue box"


class Times:
    """A clock that runs only while the loop sleeps."""

    now_s = 0.0

    def clock(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds

    @property
    def loop(self):
        return LoopTime(self.clock, self.sleep)


class Upward:
    """Moves up, faster than is allowed now and then."""

    with make_env("tabletop-starter", render_cameras=False) as _env:
        spec = _env.robot_spec

    def predict(self, observations):
        values = np.tile(np.array([0, 0, 0.01, 0, 0, 0, 1], np.float32), (4, 1))
        values[2, 0] = 0.2
        return [ActionChunk(values, o.time_s) for o in observations]


@pytest.fixture(scope="module")
def server():
    with PolicyServer(Upward()) as server:
        yield server


def test_a_served_policy_drives_a_simulated_robot_and_is_recorded(server, tmp_path):
    config = RunConfig(
        server.url,
        "simulated",
        TEXT,
        {"request": {"task": "put"}},
        1.0,
        tmp_path / "data",
        tmp_path / "out",
        execute=4,
        timeout_s=5.0,
    )
    result = run(config, progress=False, times=Times().loop)
    assert (result.summary.steps, result.summary.waited, result.recorded) == (10, 0, 1)
    assert result.summary.rules["range"] == 2 and result.success is None
    (episode,) = open_dataset(tmp_path / "data")
    assert episode.instruction == TEXT and np.abs(episode.actions[:, 0]).max() <= 0.05 + 1e-6
    assert episode.extras["run"]["policy"] == server.url
    assert json.loads((tmp_path / "out/run.jsonl").read_text().splitlines()[-1])["steps"] == 10


class AnsweringTimes(Times):
    """A clock on which each prediction is there before the next step."""

    def sleep(self, seconds):
        super().sleep(seconds)
        for thread in threading.enumerate():
            if thread.name == "overlapping":
                thread.join(10)


def test_in_real_time_the_policy_predicts_while_the_robot_moves(server, tmp_path):
    config = RunConfig(
        server.url, "simulated", TEXT, {"request": {"task": "put"}}, 1.0, out=tmp_path, execute=3, real_time="aligned"
    )
    result = run(config, progress=False, times=AnsweringTimes().loop)
    assert (result.summary.steps, result.summary.misses, result.summary.waited) == (10, 0, 1), "held until the first answer alone"
    assert result.summary.rules["range"] == 3  # row 2 of each chunk, at steps 3, 5 and 8
    lines = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert lines[0]["real_time"] == "aligned" and "no action is left" in str([line.get("waits") for line in lines])


def test_the_command_prints_figures_and_says_what_does_not_fit(server, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["run", server.url, "--instruction", TEXT, "--seconds", "0.3", "--timeout-s", "5", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert exit_.value.code == 0 and "control steps in" in printed and "run.jsonl" in printed
    with pytest.raises(SystemExit) as exit_:
        main(["run", server.url, "--instruction", TEXT, "--robot-set", "env=navigation", "--out", str(tmp_path / "other")])
    message = capsys.readouterr().err
    assert exit_.value.code == 2 and "robot 'tabletop-panda'" in message and "robot 'navigation-rover'" in message


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"agent": "other"}, UnknownNameError, "no agent named 'other'"),
        ({"agent": "ensemble", "execute": 2}, ConfigError, "--execute does not apply"),
        ({"agent": "ensemble", "real_time": "aligned"}, ConfigError, "--real-time does not apply"),
        ({"real_time": "guided"}, ConfigError, "does not continue planned actions"),
        ({"options": {"speed": 1}}, ConfigError, "robot 'simulated' has no field 'speed'"),
        ({"robot": "simulate"}, UnknownNameError, "Did you mean 'simulated'"),
    ],
)
def test_wrong_options_are_refused_before_the_robot_moves(server, change, error, message):
    with pytest.raises(error, match=message):
        run(
            RunConfig(**{"policy": server.url, "robot": "simulated", "instruction": TEXT, "seconds": 0.2} | change),
            progress=False,
        )


def test_a_robot_without_limits_is_refused_until_its_owner_says_so(server, monkeypatch):
    import dataclasses

    bare = dataclasses.replace(Upward.spec, limits=(), workspaces=())
    monkeypatch.setattr(SimulatedRobot, "spec", property(lambda self: bare))
    closed, close = [], SimulatedRobot.close
    monkeypatch.setattr(SimulatedRobot, "close", lambda robot: closed.append(robot) or close(robot))
    config = RunConfig(server.url, "simulated", TEXT, seconds=0.2, timeout_s=5.0)
    with pytest.raises(ConfigError, match="has no motion limits for 'position_delta', 'rotation_delta'.*--unguarded"):
        run(config, progress=False)
    assert closed
    assert run(dataclasses.replace(config, unguarded=True), progress=False, times=Times().loop).summary.steps == 2
