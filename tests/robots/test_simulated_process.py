"""A simulated robot in a process of its own: its world moves by its own clock, and it ends with whoever started it."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from verbot.contracts import AgingRobot, Robot
from verbot.envs import make_env
from verbot.errors import ConfigError, RobotError, UnknownNameError
from verbot.robots import make_robot
from verbot.robots.simulated_world import WATCHDOG_S, ClockedWorld, CommandQueue, ProcessFaults, merged, portioned
from verbot.rollout.episode import EpisodeRunner
from verbot.spec import Component, RobotSpec

LIMIT_S = 30.0


def eventually(holds, limit_s=LIMIT_S):
    deadline = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.01)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def robot():
    robot = make_robot("simulated-process", env="navigation", request={"task": "go", "index": 3})
    yield robot
    robot.close()


def test_it_is_connected_moves_by_itself_is_killed_and_connected_again(robot):
    with pytest.raises(RobotError, match="not connected; call connect first"):
        robot.observe()
    robot.connect()
    with pytest.raises(RobotError, match="connected already"):
        robot.connect()
    assert isinstance(robot, Robot) and isinstance(robot, AgingRobot)
    first = robot.observe()
    first.check(robot.spec)
    ages = robot.ages_s()
    assert ages.keys() == {"top", "state"} and 0 <= ages["top"] < LIMIT_S
    eventually(lambda: robot.observe().time_s > first.time_s)  # nobody calls act
    assert robot.counts["executed"] == 0
    assert not np.shares_memory(robot.observe().images["top"], robot.observe().images["top"])
    robot.act(robot.spec.action_low())
    eventually(lambda: robot.counts["executed"] == 1)
    with pytest.raises(RobotError, match="must be 1 finite numbers"):
        robot.act(np.full(1, np.nan))
    robot.stop()
    os.kill(robot.pid, signal.SIGKILL)
    eventually(lambda: robot._fault)
    for call in (robot.observe, lambda: robot.act(robot.spec.action_low()), robot.ages_s and robot.observe):
        with pytest.raises(RobotError, match="is lost: its process was killed by SIGKILL; call close, then connect"):
            call()
    robot.stop()
    robot.close()
    robot.close()
    robot.connect()  # the next episode
    assert robot.observe().instruction != "" and robot.observe().time_s < LIMIT_S
    assert not np.array_equal(robot.observe().images["top"], first.images["top"])
    robot.close()
    assert robot.info["success"] is False  # also after its end


def test_the_process_ends_when_its_parent_is_killed():
    code = (
        "from verbot.robots import make_robot\nimport time\n"
        "robot = make_robot('simulated-process', env='navigation')\nrobot.connect()\n"
        "print(robot.pid, flush=True)\ntime.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        try:
            child = int(parent.stdout.readline())
            assert alive(child)
        finally:
            parent.kill()
    eventually(lambda: not alive(child))


def test_a_fault_of_the_setup_is_an_error_of_the_robot():
    with pytest.raises(UnknownNameError, match="no env named 'navigatio'. Did you mean 'navigation'?"):
        make_robot("simulated-process", env="navigatio")
    with pytest.raises(ConfigError, match="rate_hz is -1"):
        make_robot("simulated-process", rate_hz=-1.0)
    with pytest.raises(ConfigError, match="stall_after_s is -1"):
        ProcessFaults(stall_after_s=-1.0)
    with pytest.raises(RobotError, match="cannot be set up: .*rate_hz is 7; expected a whole multiple of 5"):
        _ = make_robot("simulated-process", env="navigation", rate_hz=7.0).spec


GRIP = Component("grip", "gripper", ("open",), "1", "tool", (0.0,), (1.0,))
PLACE = Component("place", "position", ("x",), "m", "base", (0.0,), (1.0,))
SHIFT = Component("shift", "position_delta", ("x",), "m", "base", (-0.1,), (0.1,))
SPEED = Component("speed", "velocity", ("x",), "m/s", "base", (-1.0,), (1.0,))
SPEC = RobotSpec("rail", 10.0, (), (PLACE, GRIP), (SHIFT, SPEED, PLACE, GRIP))


class Rail:
    """An env that keeps its actions; its place is always 0.3 m."""

    robot_spec = SPEC

    def __init__(self):
        self.actions = []

    def reset(self, *, seed=None, options=None):
        return self._record(), {"error": None, "instruction": ""}

    def step(self, action):
        self.actions.append(action.tolist())
        return self._record(), 0.0, False, False, {"error": "it broke" if len(self.actions) == 9 else None}

    def close(self):
        """Nothing is held."""

    def _record(self):
        return {"images": {}, "state": np.array([0.3, 0.5], np.float32), "instruction": ""}


def action(*values):
    return np.array(values, np.float32)


def test_between_commands_deltas_end_at_once_velocities_soon_and_targets_stay():
    now, env = [0.0], Rail()
    commands = CommandQueue(2, lambda: now[0])
    world = ClockedWorld(EpisodeRunner(env, {}), commands, clock=lambda: now[0])
    world.step()
    assert env.actions[-1] == pytest.approx([0, 0, 0.3, 0.5])  # where it was measured
    commands.put(action(0.1, 0.7, 0.9, 1.0))
    world.step()
    assert env.actions[-1] == pytest.approx([0.1, 0.7, 0.9, 1.0])
    now[0] += WATCHDOG_S / 2
    world.step()
    assert env.actions[-1] == pytest.approx([0, 0.7, 0.9, 1.0])
    now[0] += WATCHDOG_S
    world.step()
    assert env.actions[-1] == pytest.approx([0, 0, 0.9, 1.0])
    commands.put(action(0.1, 0.7, 0.8, 1.0))
    commands.put("stop")
    world.step()
    assert env.actions[-1] == pytest.approx([0, 0, 0.3, 1.0])  # the command before it is gone, and the gripper holds
    for place in (0.1, 0.2, 0.4):
        commands.put(action(0, 0, place, 0))
    assert commands.dropped == 1
    for place in (0.2, 0.4):
        world.step()
        assert env.actions[-1] == pytest.approx([0, 0, place, 0])
    world.step()
    with pytest.raises(RobotError, match="'rail' faulted: it broke"):
        world.step()


def test_a_faster_robot_commands_in_smaller_portions():
    spec, portions = portioned(SPEC, 50.0)
    assert (spec.rate_hz, portions, spec.max_age_s) == (50.0, 5, 0.5)
    assert spec.action[0].high == pytest.approx((0.02,)) and spec.action[1:] == SPEC.action[1:]
    one = merged(SPEC, [action(0.02, 0.1 * i, 0.1 * i, 1.0) for i in range(5)])
    np.testing.assert_allclose(one, [0.1, 0.4, 0.4, 1.0], rtol=1e-6)
    assert portioned(SPEC, None) == (spec.__class__(**{**vars(SPEC), "max_age_s": 0.5}), 1)
    for rate_hz in (5.0, 25.0001, 1e9):
        with pytest.raises(ConfigError, match="expected a whole multiple of 10"):
            portioned(SPEC, rate_hz)


def test_the_time_limit_of_an_env_does_not_end_a_robot():
    env, shown = make_env("navigation", max_seconds=0.2), []
    commands = CommandQueue(8)
    world = ClockedWorld(EpisodeRunner(env, {"task": "go"}), commands)
    for _ in range(3):
        commands.put(action(2.0))
        world.step()
    heading = env.world.heading_rad
    commands.put(action(2.0))
    world.step()
    commands.put(None)
    world.run(shown.append)
    assert env.world.heading_rad != heading and not shown[0].over


def test_discrete_choices_are_executed_once_each():
    env = make_env("navigation")
    commands, shown = CommandQueue(2), []
    world = ClockedWorld(EpisodeRunner(env, {"task": "go"}), commands)
    before = env.world.x_m, env.world.y_m
    world.step()
    assert (env.world.x_m, env.world.y_m) == before
    commands.put(action(0.0))
    world.step()
    assert (env.world.x_m, env.world.y_m) != before
    commands.put(None)
    world.run(shown.append)
    assert len(shown) == 1 and shown[0].counts["executed"] == 1
