import numpy as np
import pytest

from verbot.contracts import Agent, ChunkedAgent, Env, EpisodeRequest, Policy, Robot, TaskEnv, expert_of, observation_from_env
from verbot.errors import ConfigError
from verbot.spec import ActionChunk


class Still:
    spec = None

    def predict(self, observations):
        return [ActionChunk(np.zeros((1, 1), np.float32)) for _ in observations]


class Silent:
    def reset(self, instruction):
        pass

    def act(self, observation):
        return np.zeros(1, np.float32)


def test_protocols_know_their_own():
    assert isinstance(Still(), Policy)
    assert not isinstance(Silent(), Policy)
    assert isinstance(Silent(), Agent)
    assert not isinstance(Silent(), ChunkedAgent)


class Bare:
    robot_spec = None

    def reset(self, *, seed=None, options=None):
        return {}, {}

    def step(self, action):
        return {}, 0.0, False, False, {}

    def close(self):
        pass


class WithTasks(Bare):
    tasks = ("go",)


class WithExpert(WithTasks):
    def expert(self, noise=0.0, seed=0):
        return noise, seed


def test_an_env_needs_no_tasks_and_a_task_env_no_expert():
    assert isinstance(Bare(), Env) and not isinstance(Bare(), TaskEnv | Robot)
    assert isinstance(WithTasks(), TaskEnv) and isinstance(WithTasks(), Env)
    assert expert_of(WithExpert(), 0.5, 3) == (0.5, 3)
    with pytest.raises(ConfigError, match=r"WithTasks has no expert: it lacks expert\(noise, seed\)"):
        expert_of(WithTasks())


def test_an_observation_comes_out_of_an_env_record():
    record = {"images": {"front": np.zeros((2, 2, 3), np.uint8)}, "state": np.ones(1, np.float32), "instruction": "go"}
    observation = observation_from_env(record, 0.3)
    assert (observation.instruction, observation.time_s, observation.goal_image) == ("go", 0.3, None)
    assert observation.images is record["images"]
    goal = np.zeros((2, 2, 3), np.uint8)
    assert observation_from_env({**record, "goal_image": goal}).goal_image is goal


def test_requests_do_not_share_their_axes():
    assert EpisodeRequest().axes == {}
    assert EpisodeRequest().axes is not EpisodeRequest().axes
