"""The control loop keeps its rate on a clock, reports what happened, and holds the robot whatever ends it."""

import contextlib
import dataclasses
import json
import os
import signal
import threading

import numpy as np
import pytest

from verbot.agents import ChunkAgent, Guard, GuardConfig, GuardedAgent, HoldAgent
from verbot.agents.guard_events import GuardEvent, GuardResult
from verbot.data import open_dataset
from verbot.deploy.loop import ControlLoop, LoopConfig, LoopTime, Recorder, oldest_s
from verbot.deploy.loop_recording import RunRecorder
from verbot.deploy.loop_report import LONGEST_LINE, LatencyHistogram, LoopReport, LoopStep
from verbot.deploy.matching import check_matching
from verbot.errors import ConfigError, ConnectionLostError, RobotError
from verbot.spec import ActionChunk, Camera, Component, MotionLimits, Observation, RobotSpec

X = Component("x", "joint_position", ("slide",), "m", "base", (-1.0,), (1.0,))
SPEC = RobotSpec("rail", 10.0, (Camera("front", 8, 8),), (X,), (X,), limits=(MotionLimits("x", step=(0.2,)),), max_age_s=0.5)
PICTURE = np.zeros((8, 8, 3), np.uint8)


class Times:
    """A clock that runs only while somebody sleeps or works."""

    def __init__(self):
        self.now_s = 100.0

    def clock(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


class Rail:
    """Follows commands exactly; `delays` (step: seconds) is how long its `observe` takes, `faults` what it raises there."""

    spec = SPEC

    def __init__(self, times, delays=None, faults=None):
        self.times, self.delays, self.faults = times, delays or {}, faults or {}
        self.log, self.x, self.age_s, self.count = [], 0.0, 0.01, 0

    def connect(self):
        self.log.append("connect")
        self.begun_s = self.times.now_s

    def observe(self):
        step, self.count = self.count - 1, self.count + 1  # the first one is to prepare
        if step in self.faults:
            raise self.faults[step]
        self.times.now_s += self.delays.get(step, 0.001)
        return Observation({"front": PICTURE}, np.array([self.x], np.float32), time_s=self.times.now_s - self.begun_s)

    def ages_s(self):
        return {"front": self.age_s, "state": 0.0}

    def act(self, action):
        self.x = float(action[0])
        self.log.append((round(self.times.now_s - self.begun_s, 3), self.x))

    def stop(self):
        self.log.append("stop")

    def close(self):
        self.log.append("close")

    @property
    def commands(self):
        return [entry for entry in self.log if isinstance(entry, tuple)]


class Policy:
    spec = SPEC

    def __init__(self, value=0.0):
        self.value, self.lost, self.asked = value, False, []

    def predict(self, observations):
        self.asked += [o.time_s for o in observations]
        if self.lost:
            raise ConnectionLostError("the server is gone")
        return [ActionChunk(np.full((4, 1), self.value, np.float32), o.time_s) for o in observations]


def loop(robot, policy=None, recorder=None, wrapped=True, config=None):
    times = robot.times
    held = HoldAgent(ChunkAgent(policy or Policy(), 1), 5.0)
    guard = Guard(robot.spec, config, clock=times.clock)
    agent = GuardedAgent(held, guard, oldest_s(robot), times.clock)
    return ControlLoop(robot, agent, held if wrapped else None, recorder, LoopTime(times.clock, times.sleep))


def lines(folder):
    return [json.loads(line) for line in (folder / "run.jsonl").read_text().splitlines()]


def test_steps_are_due_on_absolute_times_and_delays_do_not_add_up():
    robot = Rail(Times(), dict.fromkeys(range(1, 20, 3), 0.03))
    summary = loop(robot).run(LoopConfig("stay", seconds=2.0))
    due = [0.001 + k * 0.1 for k in range(20)]
    assert [time for time, _ in robot.commands] == pytest.approx([t + robot.delays.get(k, 0.001) for k, t in enumerate(due)])
    assert (summary.steps, summary.misses, summary.skipped, summary.ended) == (20, 0, 0, "time")
    assert robot.log[0] == "connect" and robot.log[-2:] == ["stop", "close"]
    assert summary.durations["period"]["max"] == pytest.approx(100, abs=0.01)


def test_a_late_step_is_counted_and_its_periods_are_skipped_not_made_up_for(tmp_path):
    robot = Rail(Times(), {3: 0.25})
    summary = loop(robot).run(LoopConfig("stay", seconds=1.0, out=tmp_path))
    assert (summary.steps, summary.misses, summary.skipped) == (8, 1, 2)
    assert [round(time - 0.001, 2) for time, _ in robot.commands] == [0.0, 0.1, 0.2, 0.55, 0.6, 0.7, 0.8, 0.9]
    assert [(line["number"], line["skipped"]) for line in lines(tmp_path) if line["kind"] == "step"] == [(3, 2)]


@pytest.mark.parametrize("fault", [RobotError("the arm is off"), ValueError("odd"), KeyboardInterrupt()])
def test_a_fault_stops_and_closes_the_robot_and_is_in_the_log(tmp_path, fault):
    robot = Rail(Times(), faults={2: fault})
    with pytest.raises(type(fault)):
        loop(robot).run(LoopConfig("stay", seconds=1.0, out=tmp_path))
    assert robot.log[-2:] == ["stop", "close"] and len(robot.commands) == 2
    end = lines(tmp_path)[-1]
    assert (end["kind"], end["ended"], end["steps"]) == ("end", "fault", 2) and type(fault).__name__ in end["fault"]


def test_a_robot_that_cannot_stop_is_closed_nevertheless():
    robot = Rail(Times())
    robot.stop = lambda: (_ for _ in ()).throw(RobotError("no answer"))
    with pytest.raises(RobotError, match="no answer"):
        loop(robot).run(LoopConfig("stay", seconds=0.3))
    assert robot.log[-1] == "close"
    robot.faults = {robot.count: RobotError("the arm is off")}
    with pytest.raises(RobotError, match="the arm is off; and the robot could not be stopped: no answer"):
        loop(robot).run(LoopConfig("stay", seconds=0.3))
    robot.connect = lambda: (_ for _ in ()).throw(RobotError("no such port"))
    with pytest.raises(RobotError, match="no such port$"):
        loop(robot).run(LoopConfig("stay", seconds=0.3))
    assert robot.log[-1] == "close"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_the_step(number):
    robot = Rail(Times())
    before = signal.getsignal(number)
    show = iter([lambda: None, lambda: os.kill(os.getpid(), number)])
    config = LoopConfig("stay", seconds=60.0, show=lambda steps, note: next(show, lambda: None)())
    with contextlib.suppress(KeyboardInterrupt):
        summary = loop(robot).run(config)
    assert (summary.ended, summary.signal) == ("signal", number) and summary.steps < 12
    assert robot.log[-2:] == ["stop", "close"]
    assert signal.getsignal(number) == before


def test_a_lost_server_holds_at_once_and_a_fresh_observation_moves_again(tmp_path):
    policy, robot = Policy(0.1), Rail(Times())
    run = loop(robot, policy)
    config = LoopConfig("go", seconds=1.2, out=tmp_path, finished=lambda: setattr(policy, "lost", 4 <= robot.count < 8))
    policy.value = 0.1
    summary = run.run(config)
    assert summary.waited == 4 and summary.ended == "time"
    assert [round(x, 3) for _, x in robot.commands] == [0.1] * 12  # held where it was measured
    waits = [line.get("waits", "") for line in lines(tmp_path) if line["kind"] == "step"]
    assert waits[0] == "the server is gone" and waits[-1] == ""


def test_a_stale_observation_moves_nothing_and_the_guard_is_reported(tmp_path):
    policy, robot, shown = Policy(0.9), Rail(Times()), []

    def grow_old():
        robot.age_s = 0.7 * (robot.count in (5, 6))

    config = LoopConfig("go", 1.5, tmp_path, {"policy": "p"}, finished=grow_old, show=lambda *shows: shown.append(shows))
    summary = loop(robot, policy).run(config)
    x = [round(value, 3) for _, value in robot.commands]
    assert x[:8] == [0.2, 0.4, 0.6, 0.8, 0.8, 0.8, 0.9, 0.9] and summary.held == 2
    assert summary.rules == {"step": 4, "age": 2} and summary.changed == 4
    assert lines(tmp_path)[0]["policy"] == "p" and any("changed" in note for _, note in shown)
    events = [line["events"][0] for line in lines(tmp_path) if line.get("events")]
    assert events[0]["rule"] == "step" and events[0]["requested"] == pytest.approx(0.9)


def test_an_instruction_from_the_robot_goes_to_the_agent_and_the_guard_keeps_the_motion(tmp_path):
    class Talking(Rail):
        def next_instruction(self):
            return "come back" if self.count == 4 else None

    policy, robot = Policy(0.9), Talking(Times())
    control = loop(robot, policy, RunRecorder(tmp_path / "data", SPEC, "go", {}))
    instructed = []
    policy.predict = lambda observations, ask=policy.predict: instructed.append(observations[0].instruction) or ask(observations)
    control.run(LoopConfig("go", 0.6, tmp_path))
    assert instructed == ["go"] * 3 + ["come back"] * 3
    assert [round(x, 3) for _, x in robot.commands] == [0.2, 0.4, 0.6, 0.8, 0.9, 0.9]
    assert [line["instruction"] for line in lines(tmp_path) if line["kind"] == "instruction"] == ["come back"]
    assert [(e.instruction, len(e.actions)) for e in open_dataset(tmp_path / "data")] == [("go", 3), ("come back", 3)]


def test_a_latch_holds_to_the_end(tmp_path):
    policy, robot = Policy(0.9), Rail(Times())
    summary = loop(robot, policy, config=GuardConfig(patience=2, hold_s=0.1, latch_after=1)).run(LoopConfig("go", seconds=1.0))
    assert "1 severe events" in summary.latched and summary.held == 8 and "latched" in summary.table()


def test_a_robot_without_a_hold_action_is_stopped_and_the_loop_goes_on():
    choice = Component("choice", "discrete", ("c",), "1", "robot", (0.0,), (6.0,))
    spec = RobotSpec("rover", 10.0, (), (), (choice,), limits=(MotionLimits("choice", (0.0,), (6.0,)),))
    robot = Rail(Times())
    robot.spec = spec
    robot.observe = lambda: Observation({}, np.zeros(0, np.float32), time_s=robot.times.now_s)

    class Broken:
        def reset(self, instruction):
            pass

        def act(self, observation):
            return np.array([np.nan], np.float32)

    agent = GuardedAgent(Broken(), Guard(spec, clock=robot.times.clock), clock=robot.times.clock)
    summary = ControlLoop(robot, agent, times=LoopTime(robot.times.clock, robot.times.sleep)).run(LoopConfig("", seconds=0.5))
    assert summary.held == 5 and robot.log == ["connect"] + ["stop"] * 6 + ["close"]


def test_a_run_is_recorded_with_the_executed_actions_and_the_guards_events(tmp_path):
    robot = Rail(Times())
    recorder = RunRecorder(tmp_path / "data", SPEC, "go", {"policy": "p"})
    assert isinstance(recorder, Recorder)
    loop(robot, Policy(0.5), recorder).run(LoopConfig("go", seconds=0.6))
    (episode,) = open_dataset(tmp_path / "data")
    assert episode.instruction == "go" and episode.images("front").shape == (6, 8, 8, 3)
    np.testing.assert_allclose(episode.actions[:, 0], [0.2, 0.4, 0.5, 0.5, 0.5, 0.5], atol=1e-6)
    run = episode.extras["run"]
    assert [(e["rule"], e["frame"]) for e in run["guard_events"]] == [("step", 0), ("step", 1)]
    assert run["summary"]["ended"] == "time" and run["policy"] == "p"


def test_a_long_run_becomes_several_episodes_and_a_slow_disk_stops_no_robot(tmp_path, monkeypatch):
    monkeypatch.setattr("verbot.deploy.loop_recording.EPISODE_BYTES", 2 * PICTURE.nbytes)
    recorder = RunRecorder(tmp_path / "data", SPEC, "go", {})
    loop(Rail(Times()), Policy(), recorder).run(LoopConfig("go", seconds=0.3))
    assert recorder.episodes == 2 and [len(e.actions) for e in open_dataset(tmp_path / "data")] == [2, 1]
    slow = RunRecorder(tmp_path / "slow", SPEC, "go", {})
    gate = threading.Event()
    monkeypatch.setattr(slow._writer, "save_episode", lambda record: gate.wait(10))
    result = GuardResult(np.zeros(1, np.float32))
    for _ in range(12):
        slow.add(Observation({"front": PICTURE}, np.zeros(1, np.float32)), result)
    gate.set()
    slow.close({})
    assert "the disk is too slow" in slow.problem
    odd = RunRecorder(tmp_path / "odd", SPEC, "go", {})
    for size in (8, 4):  # a camera that changes the size of its pictures
        odd.add(Observation({"front": PICTURE[:size]}, np.zeros(1, np.float32)), result)
    odd.close({})
    assert "all input arrays must have the same shape" in odd.problem
    missing = RunRecorder(tmp_path / "missing", SPEC, "go", {})
    missing.add(Observation({}, np.zeros(1, np.float32)), result)
    missing.close({})
    assert missing.left_out == 1 and missing.episodes == 0


def test_the_log_is_bounded_in_lines_and_in_bytes_a_line(tmp_path):
    report = LoopReport(100.0, tmp_path, {"policy": "p" * 10000})
    events = tuple(GuardEvent("shape", "", None, "x" * 5000, "hold", 0.0) for _ in range(50))
    for k in range(300):
        report.add(LoopStep(k, 0.01, 0.0, 0.01, 0.001, 0.002, 0.003, held="shape", events=events), 0.01 * (k + 1))
    summary = report.finish("time")
    text = (tmp_path / "run.jsonl").read_text().splitlines()
    assert max(map(len, text)) <= LONGEST_LINE and len(text) < 40
    assert sum(json.loads(line).get("hidden", 0) for line in text) > 200
    assert summary.rules == {"shape": 300 * 50}


def test_a_histogram_holds_quantiles_in_constant_memory():
    histogram, values = LatencyHistogram(), np.random.default_rng(0).lognormal(-5, 1, 5000)
    for value in values:
        histogram.add(float(value))
    for share in (0.5, 0.95, 0.99):
        assert histogram.quantile(share) == pytest.approx(np.quantile(values, share), rel=0.03)
    assert histogram.largest_s == values.max() and LatencyHistogram().to_json() == {
        "p50": None,
        "p95": None,
        "p99": None,
        "max": 0.0,
    }
    histogram.add(0.0)
    histogram.add(1e9)


def test_a_policy_for_another_robot_is_refused_with_both_sides_named():
    check_matching(SPEC, dataclasses.replace(SPEC, name="other", limits=(), cameras=(*SPEC.cameras, Camera("side", 4, 4))), "p")
    changes = {
        "rate: 10 Hz against 20 Hz": {"rate_hz": 20.0},
        r"action: x \(joint_position slide in m, base\) against y": {"action": (dataclasses.replace(X, name="y"),), "limits": ()},
        r"state: .* against x \(joint_position slide in rad": {"state": (dataclasses.replace(X, unit="rad"),)},
        "camera: front 8×8 color against front 16×8 color": {"cameras": (Camera("front", 8, 16),)},
        "against none of this name": {"cameras": ()},
    }
    for message, change in changes.items():
        with pytest.raises(ConfigError, match=f"policy p .*robot 'rail'.* does not fit robot 'rail'.*{message}"):
            check_matching(SPEC, dataclasses.replace(SPEC, **change), "p")
