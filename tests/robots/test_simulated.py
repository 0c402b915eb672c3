"""A simulated robot sees and does what its env does."""

import dataclasses

import numpy as np
import pytest

from verbot.contracts import Env, Robot, observation_from_env
from verbot.envs import envs, make_env
from verbot.errors import RobotError, SimulationError, UnknownNameError
from verbot.robots import make_robot, robots
from verbot.robots.simulated import SimulatedRobot


def actions_of(spec, count):
    return np.random.default_rng(0).uniform(spec.action_low(), spec.action_high(), (count, spec.action_size)).astype(np.float32)


def same(first, second):
    assert first.images.keys() == second.images.keys()
    assert all(np.array_equal(image, second.images[name]) for name, image in first.images.items())
    np.testing.assert_array_equal(first.state, second.state)
    assert (first.instruction, first.time_s) == (second.instruction, pytest.approx(second.time_s))


@pytest.mark.parametrize("name", envs.names())
def test_a_robot_observes_what_its_env_does(name):
    env, robot = make_env(name), make_robot("simulated", env=name, request={"index": 4}, seed=7)
    assert isinstance(robot, Robot) and not isinstance(robot, Env)
    assert robot.spec == env.robot_spec
    record, _ = env.reset(seed=7, options={"index": 4})
    robot.connect()
    same(robot.observe(), observation_from_env(record))
    for step, action in enumerate(actions_of(env.robot_spec, 5), 1):
        record, *_ = env.step(action)
        robot.act(action)
        same(robot.observe(), observation_from_env(record, step / env.robot_spec.rate_hz))
    robot.close()
    env.close()


def test_each_connection_is_the_next_episode_and_the_same_again():
    first, second = (SimulatedRobot("navigation", {"task": "go", "index": 2}) for _ in range(2))
    seen = []
    for robot in (first, second):
        for _ in range(2):
            robot.connect()
            seen.append(robot.observe())
            robot.close()
    same(seen[0], seen[2])
    same(seen[1], seen[3])
    assert not np.array_equal(seen[0].images["top"], seen[1].images["top"])


def test_it_holds_still_after_the_end_of_the_episode():
    robot = SimulatedRobot("navigation", {"task": "go"}, options={"max_seconds": 0.4})
    robot.connect()
    forward = robot.spec.action_low()
    for _ in range(2):
        assert not robot.is_over
        robot.act(forward)
    assert robot.is_over
    end = robot.observe()
    robot.act(forward)
    after = robot.observe()
    assert after.time_s == pytest.approx(end.time_s + 0.2)
    same(dataclasses.replace(after, time_s=end.time_s), end)
    assert robot.info["success"] is False


def test_without_a_connection_it_says_so():
    robot = SimulatedRobot("navigation")
    for call in (robot.observe, lambda: robot.act(robot.spec.action_low())):
        with pytest.raises(RobotError, match="robot 'navigation-rover' is not connected; call connect first"):
            call()
    robot.connect()
    with pytest.raises(RobotError, match="connected already; call close first"):
        robot.connect()
    robot.close()
    robot.close()
    with pytest.raises(RobotError, match="not connected"):
        robot.observe()


class Faulty:
    """An env whose simulator faults at the second step: once by its info, once by an error."""

    robot_spec = make_env("navigation").robot_spec
    closed = 0

    def __init__(self, raises):
        self.raises, self.steps = raises, 0

    def reset(self, *, seed=None, options=None):
        return {"images": {}, "state": np.zeros(6, np.float32), "instruction": ""}, {"error": None}

    def step(self, action):
        self.steps += 1
        if self.steps == 2 and self.raises:
            raise SimulationError("the solver diverged")
        error = "the solver diverged" if self.steps == 2 else None
        return self.reset()[0], 0.0, False, error is not None, {"error": error}

    def close(self):
        self.closed += 1


@pytest.mark.parametrize("raises", [False, True])
def test_a_fault_is_an_error_of_the_robot_and_an_env_that_was_given_stays_open(raises):
    env = Faulty(raises)
    robot = SimulatedRobot(env)
    robot.connect()
    robot.act(env.robot_spec.action_low())
    with pytest.raises(RobotError, match="robot 'navigation-rover' faulted: the solver diverged"):
        robot.act(env.robot_spec.action_low())
    robot.close()
    assert env.closed == 0


def test_robots_are_found_by_name():
    assert "simulated" in robots.names()
    with pytest.raises(UnknownNameError, match="no robot named 'simulate'. Did you mean 'simulated'?"):
        make_robot("simulate")
