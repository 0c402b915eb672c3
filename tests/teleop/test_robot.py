"""Robots behind the page: driven, recorded, taken again, discarded, and at rest whenever nobody drives."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from scripted import Page, after, lockstep

from verbot.agents import ChunkAgent, Guard, GuardConfig, HoldAgent
from verbot.data import check_dataset, open_dataset
from verbot.errors import ConfigError, RobotError
from verbot.spec import ActionChunk, Camera, Component, MotionLimits, Observation, RobotSpec
from verbot.teleop import robot_run
from verbot.teleop.controls import HandsOff
from verbot.teleop.robot_episode import DrivenRobot
from verbot.teleop.robot_run import RobotDrivingConfig, RobotRecordConfig, drive_robot, record_robot

PLACE = Component("place", "position", ("x", "y", "z"), "m", "base", (-1.0,) * 3, (1.0,) * 3)
GRIP = Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
MOVE = Component("move", "position_delta", ("x", "y", "z"), "m", "base", (-0.1,) * 3, (0.1,) * 3)
LIMITS = (MotionLimits("move", (-1.0,) * 3, (1.0,) * 3, step=(0.06,) * 3),)
SPEC = RobotSpec("crane", 10.0, (Camera("front", 8, 8),), (PLACE, GRIP), (MOVE, GRIP), limits=LIMITS)


class Crane:
    """A robot whose time passes in `act`; it notes what it was asked for."""

    spec = SPEC

    def __init__(self, fails_after=None):
        self.calls, self.place, self.steps, self.fails_after = [], np.zeros(3, np.float32), 0, fails_after

    def connect(self):
        self.calls.append("connect")

    def observe(self):
        image = np.full((8, 8, 3), self.steps % 250, np.uint8)
        return Observation({"front": image}, np.append(self.place, 1).astype(np.float32), time_s=self.steps / 10)

    def act(self, action):
        self.calls.append(action.copy())
        self.place += action[:3]
        self.steps += 1
        if self.fails_after is not None and self.steps > self.fails_after:
            raise RobotError("the crane fell over")

    def stop(self):
        self.calls.append("stop")

    def close(self):
        self.calls.append("close")

    @property
    def actions(self):
        return [call for call in self.calls if not isinstance(call, str)]

    @property
    def words(self):
        return [call if isinstance(call, str) else "act" for call in self.calls]


@pytest.fixture(autouse=True)
def steady(monkeypatch):
    """Lockstep with the page in place of the clock, and a page that stays alive, as in `conftest.stopped_clock`."""
    import functools

    from verbot.teleop.inputs import Inputs

    monkeypatch.setattr(robot_run, "RealTime", lambda rate_hz: lockstep)
    monkeypatch.setattr(robot_run, "Inputs", functools.partial(Inputs, clock=lambda: 0.0))


def played(run, script):
    """What `run(opened)` returns while `script(page)` sends keys from another thread."""
    faults, threads = [], []

    def opened(server):
        def work():
            try:
                with Page(server.url) as page:
                    script(page)
            except Exception as error:
                faults.append(error)
                with Page(server.url) as page:  # else the session would go on
                    page.press("quit")
                    page.press("quit")
                    while page.receive() is not None:
                        page.seen()

        threads.append(threading.Thread(target=work, daemon=True))
        threads[0].start()

    try:
        result = run(opened)
    finally:
        for thread in threads:
            thread.join(10)
    assert not faults, faults
    return result


def record(robot, path, script, episodes=None, whole=False, **settings):
    config = RobotRecordConfig("lift the crate", episodes, "keyboard", whole, images="image")
    return played(lambda opened: record_robot(robot, path, config, RobotDrivingConfig(), opened=opened, **settings), script)


def press(page, code):
    """Hold a key from now on; one that is held when a scene begins has no effect, so another step comes first."""
    after(page, "speed")
    page.send(type="key", code=code, down=True)


def step(page, count=1):
    for _ in range(count):
        state = after(page)
    return state


def test_episodes_are_saved_taken_again_discarded_and_kept_as_failures(tmp_path):
    crane, scenes, states = Crane(), [], []

    def episode(page, steps):
        press(page, "KeyW")
        step(page, steps)
        page.send(type="key", code="KeyW", down=False)
        return after(page, "save")

    def script(page):
        assert page.hello["mode"] == "teleop" and page.receive()["phase"] == "ready"
        states.append(episode(page, 4))
        after(page, "retake")
        episode(page, 3)
        page.say("lift the red crate")
        states.append(after(page))
        states.append(after(page, "save"))
        episode(page, 3)
        after(page, "discard")
        states.append(episode(page, 3))
        after(page, "keep")
        after(page, "quit")

    result = record(crane, tmp_path / "d", script, next_scene=scenes.append)
    first, named, ready, second = states
    assert (first["phase"], first["success"], ready["phase"], ready["saved"]) == ("review", True, "ready", 1)
    assert "lift the red crate" in named["message"] and second["phase"] == "review"
    assert (result.attempts, result.episodes, scenes) == (2, 2, [True, False, False, False])
    assert not check_dataset(tmp_path / "d")
    dataset = open_dataset(tmp_path / "d")
    assert [e.instruction for e in dataset] == ["lift the red crate", "lift the crate"]
    assert [e.extras["success"] for e in dataset] == [True, False]
    assert {e.extras["by"] for e in dataset} == {"keyboard"}
    for recorded in dataset:
        np.testing.assert_allclose(np.diff(recorded.states, axis=0)[:, :3], recorded.actions[:-1, :3], atol=1e-6)
    assert crane.words.count("stop") >= 4  # in each review
    assert record(crane, tmp_path / "d", None, episodes=2).episodes == 2  # nothing is left to do
    with pytest.raises(ConfigError, match="needs an instruction"):
        RobotRecordConfig(" ")


def test_a_page_that_is_gone_ends_the_episode_and_the_robot_rests(tmp_path):
    crane, seen = Crane(), []

    def work(server):
        with Page(server.url) as page:
            page.receive()
            press(page, "KeyW")
            step(page, 3)
        deadline = time.monotonic() + 10
        while "stop" not in crane.words[crane.words.index("act") :] and time.monotonic() < deadline:
            time.sleep(0.001)
        with Page(server.url) as page:
            seen.append(page.receive())
            after(page, "quit", "quit")

    config = RobotRecordConfig("lift", images="image")
    start = lambda server: threading.Thread(target=work, args=(server,), daemon=True).start()  # noqa: E731
    result = record_robot(crane, tmp_path / "d", config, RobotDrivingConfig(), opened=start)
    assert seen[0]["phase"] == "review" and "The page was gone" in seen[0]["message"]
    assert result.episodes == 0 and crane.words[-1] == "stop"


def test_the_guard_limits_a_leader_arm_and_what_it_let_pass_is_recorded(tmp_path):
    crane, seen = Crane(), []

    def script(page):
        state = page.receive()
        seen.append(state["message"])
        page.press("KeyW")  # keys do not move it
        after(page, "end_effector", "save")
        seen.append(step(page, 3)["message"])
        after(page, "save")
        after(page, "save")

    far = np.array([0.1, 0, 0, 1], np.float32)
    result = record(crane, tmp_path / "d", script, episodes=1, read=lambda: far)
    assert result.episodes == 1
    assert seen[0].startswith("Enter begins") and seen[1] == "Guard: step move.x: 0.1 → 0.06"
    recorded = open_dataset(tmp_path / "d")[0].actions
    assert recorded[:, 0].max() == pytest.approx(0.06) and len(recorded) == len(crane.actions)


class Pusher:
    """A policy's agent: along x."""

    def reset(self, instruction):
        self.instruction = instruction

    def act(self, observation):
        assert observation.instruction == self.instruction == "lift the crate"
        return np.array([0.05, 0, 0, 1], np.float32)


def test_what_a_policy_drives_is_recorded_whole_with_the_takeover(tmp_path):
    def script(page):
        page.receive()
        after(page, "save")
        step(page, 3)
        press(page, "KeyD")
        step(page, 2)
        page.send(type="key", code="KeyD", down=False)
        after(page, "hand_back")
        step(page, 2)
        after(page, "save")
        after(page, "save")

    record(Crane(), tmp_path / "d", script, episodes=1, whole=True, policy=Pusher())
    recorded = open_dataset(tmp_path / "d")[0]
    moved = recorded.actions[:, 0] == np.float32(0.05)
    begin = recorded.extras["taken_over_frames"][0]
    assert begin >= 3 and moved[:begin].all() and not moved[begin] and moved[-1]


def test_a_robot_that_fails_ends_the_session_and_saved_episodes_are_whole(tmp_path):
    def script(page):
        page.receive()
        press(page, "KeyW")
        step(page, 2)
        page.send(type="key", code="KeyW", down=False)
        after(page, "save")
        after(page, "save")
        press(page, "KeyW")
        while after(page) is not None:
            pass

    with pytest.raises(RobotError, match="the crane fell over"):
        record(Crane(fails_after=8), tmp_path / "d", script)
    assert len(open_dataset(tmp_path / "d")) == 1 and not check_dataset(tmp_path / "d")


def test_driving_without_recording_begins_with_a_touch_and_rests_on_enter():
    crane, seen = Crane(), []

    def script(page):
        assert page.hello["mode"] == "drive"
        seen.append(page.receive()["phase"])
        press(page, "KeyW")
        seen.append(step(page, 2)["phase"])
        page.send(type="key", code="KeyW", down=False)
        after(page, "save")
        before = len(crane.actions)
        seen.append(after(page, "speed")["phase"])
        assert len(crane.actions) == before and crane.words[-1] == "stop"
        page.press("quit")
        page.seen()

    played(lambda opened: drive_robot(crane, RobotDrivingConfig(seconds=0), opened=opened), script)
    assert seen == ["ready", "driving", "ready"] and any(np.any(action[:3]) for action in crane.actions)
    crane, seen = Crane(), []
    crane.ages_s = lambda: {"front": 1.5}  # the spec has no limit of age, so it is a second
    played(lambda opened: drive_robot(crane, RobotDrivingConfig(seconds=0), opened=opened), script)
    assert crane.actions and not any(np.any(action[:3]) for action in crane.actions)
    bare = Crane()
    bare.spec = RobotSpec("crane", 10.0, SPEC.cameras, SPEC.state, SPEC.action)
    with pytest.raises(ConfigError, match="no motion limits for 'move'.*--unguarded"):
        drive_robot(bare, RobotDrivingConfig())


def test_after_a_stale_observation_the_policy_is_asked_anew():
    class Policy:
        spec, asked = SPEC, 0

        def predict(self, observations):
            self.asked += 1
            return [ActionChunk(np.tile(np.array([0.05, 0, 0, 1], np.float32), (8, 1)), o.time_s) for o in observations]

    class Aging(Crane):
        age_s = 0.0

        def ages_s(self):
            return {"state": self.age_s}

    robot, policy = Aging(), Policy()
    guard = Guard(SPEC, GuardConfig(max_age_s=0.5))
    driven = DrivenRobot(robot, guard, HandsOff(), HoldAgent(ChunkAgent(policy, 8), 5.0))
    driven.begin("lift")
    for robot.age_s in (0.0, 0.9, 0.0):
        driven.step("lift")
    assert policy.asked == 2 and [round(float(action[0]), 3) for action in robot.actions] == [0.05, 0.0, 0.05]
